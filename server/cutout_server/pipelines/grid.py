"""Where a grid of points looks for everything, and which of its finds are cut off.

The geometry of `segment_anything.utils.amg` (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix B). Boxes
hold the last column and row, [x_min, y_min, x_max, y_max] with all of them inside, as they do there: the overlap of two
boxes depends on it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cutout_server.types import Box, RgbImage

Boxes = NDArray[np.float32]  # (N, 4), the last column and row inside

_NEAR_PX = 20  # From a crop's edge; a mask whose box comes nearer may be cut off there.


@dataclass(frozen=True)
class Crop:
    """A part of the picture that is looked at.

    Attributes:
        left: First column.
        top: First row.
        right: Behind the last column.
        bottom: Behind the last row.
        layer: 0 for the whole picture.
    """

    left: int
    top: int
    right: int
    bottom: int
    layer: int

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    def of(self, pixels: RgbImage) -> RgbImage:
        """What lies inside: a view."""
        return pixels[self.top : self.bottom, self.left : self.right]

    def points(self, points_per_side: int) -> NDArray[np.float64]:
        """(N, 2) centres of the cells of a grid over the crop, row after row, in the crop's pixels."""
        centres = np.linspace(half := 1 / (2 * points_per_side), 1 - half, points_per_side)
        x, y = np.meshgrid(centres * (self.right - self.left), centres * (self.bottom - self.top))
        return np.stack([x, y], axis=-1).reshape(-1, 2)


def crops(height: int, width: int, layers: int, overlap: float) -> Iterator[Crop]:
    """The picture, then 4 ** i overlapping crops for each layer i; none of a picture too small for it.

    Args:
        height: Of the picture, in pixels.
        width: Likewise.
        layers: The last i.
        overlap: Of the crops of layer 1, as a fraction of the picture's shorter side; halved at each layer.
    """
    yield Crop(0, 0, width, height, 0)
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(height, width) * (2 / count))
        wide, high = (math.ceil((shared * (count - 1) + length) / count) for length in (width, height))
        for column, row in product(range(count), repeat=2):
            left, top = (wide - shared) * column, (high - shared) * row
            crop = Crop(left, top, min(left + wide, width), min(top + high, height), layer)
            if crop.left < crop.right and crop.top < crop.bottom:
                yield crop


def inner_boxes(boxes: Sequence[Box | None]) -> Boxes:
    """Tight boxes of masks without what lies behind the last column and row; [0, 0, 0, 0] for an empty mask."""
    rows = [(b.x_min, b.y_min, b.x_max - 1, b.y_max - 1) if b else (0, 0, 0, 0) for b in boxes]
    return np.array(rows, np.float32).reshape(-1, 4)


def cut_off(boxes: Boxes, crop: Crop, height: int, width: int) -> NDArray[np.bool_]:
    """(N,) whether a box in the crop's pixels comes near an edge of the crop that is no edge of the picture."""
    placed = boxes + np.array([crop.left, crop.top] * 2, np.float32)
    edges = np.array([crop.left, crop.top, crop.right, crop.bottom], np.float32)
    near_crop = np.abs(placed - edges) <= _NEAR_PX
    near_picture = np.abs(placed - np.array([0, 0, width, height], np.float32)) <= _NEAR_PX
    return np.asarray((near_crop & ~near_picture).any(axis=1))
