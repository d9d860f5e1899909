"""Boxes, and masks in every form."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]  # (H, W)
Logits = NDArray[np.float32]  # (h, w); above the threshold is inside
LOW_RES = 256  # Side of the logits that callers get and send.


@dataclass(frozen=True)
class Box:
    """[x_min, x_max) x [y_min, y_max), in pixels."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def clipped(self, height: int, width: int) -> "Box | None":
        """The part of it that lies in an image of that size, or None when there is none."""
        x_min, x_max = (float(x) for x in np.clip([self.x_min, self.x_max], 0, width))
        y_min, y_max = (float(y) for y in np.clip([self.y_min, self.y_max], 0, height))
        return Box(x_min, y_min, x_max, y_max) if x_min < x_max and y_min < y_max else None


@dataclass(frozen=True)
class Rle:
    """A mask at the picture's size as COCO compressed RLE: small enough to keep by the hundred.

    Attributes:
        height: Rows.
        width: Columns.
        counts: Compressed run lengths, column-major, ASCII.
    """

    height: int
    width: int
    counts: bytes = field(repr=False)


@dataclass(frozen=True)
class MaskPatch:
    """A mask at the picture's size, of which only a part is held: outside of that, nothing is inside.

    Attributes:
        height: Rows of the picture.
        width: Its columns.
        top: The part's first row.
        left: Its first column.
        inside: (h, w) bool, the part; it may be empty.
    """

    height: int
    width: int
    top: int
    left: int
    inside: BoolMask = field(repr=False)

    def __reduce__(self) -> tuple[Callable[..., "MaskPatch"], tuple[object, ...]]:
        """It is pickled as bits."""
        return _of_bits, (*self.place, self.inside.shape, np.packbits(self.inside))

    @classmethod
    def of(cls, mask: BoolMask) -> "MaskPatch":
        """Keeps a copy of what is within the tight box of a (H, W) mask."""
        height, width = mask.shape
        return cls(height, width, 0, 0, mask).tightened()

    def tightened(self) -> "MaskPatch":
        """The same, of which no more is held than the tight box; that is a copy unless it was tight."""
        rows, columns = (np.flatnonzero(self.inside.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return MaskPatch(self.height, self.width, 0, 0, np.zeros((0, 0), np.bool_))
        part = self.inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if part.shape == self.inside.shape:
            return self
        top, left = self.top + int(rows[0]), self.left + int(columns[0])
        return MaskPatch(self.height, self.width, top, left, part.copy())

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Height, width, top and left."""
        return self.height, self.width, self.top, self.left

    @property
    def box(self) -> Box:
        """Around the part."""
        height, width = self.inside.shape
        return Box(float(self.left), float(self.top), float(self.left + width), float(self.top + height))

    def whole(self) -> BoolMask:
        """(H, W) bool."""
        mask = np.zeros((self.height, self.width), np.bool_)
        height, width = self.inside.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.inside
        return mask


def _of_bits(
    height: int, width: int, top: int, left: int, shape: tuple[int, int], bits: NDArray[np.uint8]
) -> MaskPatch:
    inside = np.unpackbits(bits, count=shape[0] * shape[1]).view(np.bool_).reshape(shape)
    return MaskPatch(height, width, top, left, inside)


@dataclass(frozen=True)
class Polygon:
    """One connected part of a mask.

    Attributes:
        exterior: (N, 2) float32, (x, y) of the vertices along pixel edges.
        holes: The same for each hole.
    """

    exterior: NDArray[np.float32]
    holes: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class PolygonMask:
    """A mask's outlines.

    Attributes:
        height: Rows of the picture.
        width: Its columns.
        polygons: One for each 4-connected part.
        tolerance: How far vertices that were left out may be from the outlines, in pixels; 0 when none was.
        left_out: How many parts and holes were too small for that.
    """

    height: int
    width: int
    polygons: tuple[Polygon, ...]
    tolerance: float = 0.0
    left_out: int = 0


@dataclass(frozen=True)
class BitMask:
    """A mask with one bit a pixel, rows padded to bytes, most significant bit leftmost."""

    height: int
    width: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class PngMask:
    """A mask as a 1-bit greyscale PNG file."""

    data: bytes = field(repr=False)


EncodedMask = Rle | PngMask | BitMask | PolygonMask
