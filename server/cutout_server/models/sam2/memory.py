"""What SAM 2 remembers of one object: a bounded value that forgets what no later frame asks for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

PROMPTED_FRAMES = 8  # The first, which says what the object is, and the latest.


@dataclass(frozen=True, eq=False)
class Look:
    """A frame in which the object was looked for. Each tensor has storage of its own.

    Attributes:
        features: (1, M, 64, 64) bfloat16, the frame with the object's mask; None once no frame attends to it.
        pointer: (1, C) float32, the decoder's token of the object.
        logits: (1, 1, 256, 256) float32, for corrections; None once the frame can be corrected no more.
    """

    features: Tensor | None = field(repr=False)
    pointer: Tensor = field(repr=False)
    logits: Tensor | None = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(each.nbytes for each in (self.features, self.pointer, self.logits) if each is not None)

    def aged(self, *, features: bool, logits: bool) -> "Look":
        """The same with only what is still of use."""
        return Look(self.features if features else None, self.pointer, self.logits if logits else None)


@dataclass(frozen=True, eq=False)
class Sam2Memory:
    """The memory bank of one object (https://arxiv.org/abs/2408.00714, section 4), by frame number.

    Attributes:
        prompted: Frames in which a prompt said what the object is; at most `PROMPTED_FRAMES`.
        followed: Recent frames in which it was found, or looked for in vain.
    """

    prompted: Mapping[int, Look] = field(default_factory=dict)
    followed: Mapping[int, Look] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Look]:
        yield from self.prompted.values()
        yield from self.followed.values()

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(look.nbytes for look in self)

    def at(self, frame: int) -> Look | None:
        """What it holds of a frame."""
        return self.prompted.get(frame) or self.followed.get(frame)

    def with_look(self, frame: int, look: Look, *, prompted: bool) -> Self:
        """The same with a frame more, or with another look at one that it holds."""
        if prompted or frame in self.prompted:
            return replace(self, prompted={**self.prompted, frame: look})
        return replace(self, followed={**self.followed, frame: look})

    def trimmed(self, oldest: int, attended: int, pointed: int) -> Self:
        """The same without what is of no use any more.

        Args:
            oldest: No frame before this one will be looked at again.
            attended: How many frames before a frame it attends to.
            pointed: How many frames before a frame it takes the pointers of.
        """
        numbers = sorted(self.prompted)
        beyond = numbers[1 : max(1, len(numbers) - PROMPTED_FRAMES + 1)]  # As the first stays.
        prompted = {n: look.aged(features=True, logits=n >= oldest) for n, look in self.prompted.items()}
        followed = {**self.followed, **{n: prompted.pop(n) for n in beyond}}
        return replace(
            self,
            prompted=prompted,
            followed={
                n: look.aged(features=n >= oldest - attended, logits=n >= oldest)
                for n, look in followed.items()
                if n >= oldest - max(attended, pointed)
            },
        )
