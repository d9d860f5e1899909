"""What is kept of a picture."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from cutout_server.models.builtin.crops import Window, crop
from cutout_server.types import RgbImage

_FIRST = 2  # Halvings of the first smaller copy: a half would take a quarter of the picture's memory.
_COARSEST = 256  # Longer side from which no smaller copy is kept.


@dataclass(frozen=True)
class BuiltinEmbedding:
    """A picture and smaller copies of it, from which large crops are quickly made.

    Attributes:
        levels: (H, W, 3) uint8 RGB each: the picture, a quarter as wide, an eighth, and so on.
    """

    levels: tuple[RgbImage, ...] = field(repr=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture, in pixels."""
        return self.levels[0].shape[0], self.levels[0].shape[1]

    @property
    def frame(self) -> Window:
        """The whole picture."""
        height, width = self.image_size
        return Window(0, 0, width, height)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(level.nbytes for level in self.levels)

    def crop(self, window: Window, size: int) -> RgbImage:
        """(size, size, 3) uint8 RGB, black beyond the picture."""
        halvings = int(np.log2(max(min(window.width, window.height) / size, 1)))
        level = min(max(halvings - _FIRST + 1, 0), len(self.levels) - 1)
        scale = 0.5 ** (level + _FIRST - 1) if level else 1.0
        return crop(self.levels[level], window.scaled(scale), size)


def embed(pixels: RgbImage) -> BuiltinEmbedding:
    """Makes the smaller copies of a (H, W, 3) uint8 RGB picture."""
    levels, shrink = [pixels], 2**_FIRST
    while max(levels[-1].shape) > shrink * _COARSEST // 2:
        height, width = levels[-1].shape[:2]
        size = (max(width // shrink, 1), max(height // shrink, 1))
        levels.append(np.asarray(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA), np.uint8))
        shrink = 2
    return BuiltinEmbedding(tuple(levels))
