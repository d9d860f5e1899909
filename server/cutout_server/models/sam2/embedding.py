"""A picture or a frame after the encoder."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sam2Embedding:
    """A picture after the encoder, on the model's device.

    Attributes:
        image_size: (height, width) in pixels.
        features: (1, C, 64, 64) float32, before anything is said of what was seen earlier.
        high_res_feats: (1, C/8, 256, 256) and (1, C/4, 128, 128) float32, for the mask decoder's upscaling.
    """

    image_size: tuple[int, int]
    features: Tensor = field(repr=False)
    high_res_feats: tuple[Tensor, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in (self.features, *self.high_res_feats))
