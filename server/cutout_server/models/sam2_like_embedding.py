"""A picture or a frame as the encoders of SAM 2's descendants see it."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sam2LikeEmbedding:
    """A picture after the encoder, on the model's device.

    Attributes:
        image_size: (height, width) in pixels.
        levels: (1, C, h, w) float32 each, from the finest to the coarsest, before anything is said of what was seen
            earlier.
    """

    image_size: tuple[int, int]
    levels: tuple[Tensor, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(level.untyped_storage().nbytes() for level in self.levels)
