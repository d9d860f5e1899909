"""Square windows of a picture as the network sees them, and prompts as maps on them. Training uses the same code."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.boxes import mapped
from cutout_server.types import Box

Field = NDArray[np.float32]  # (h, w)

MARGIN = 1.5  # Side of the window around a box, in longer sides of the box.
SMALLEST = 16.0  # Side of a window, in pixels of the picture: beyond this, more pixels are only more blur.
_SIGMA = 2.5  # Of a click's spot, in pixels of the crop.


@dataclass(frozen=True)
class Window:
    """A part of a picture, in its pixels; it may reach beyond the picture."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def around(cls, box: Box, margin: float = MARGIN) -> "Window":
        """The square window in which a box is looked at; its edges are whole pixels."""
        side = round(max(margin * max(box.x_max - box.x_min, box.y_max - box.y_min), SMALLEST))
        return cls.at((box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2, side)

    @classmethod
    def at(cls, x: float, y: float, side: float) -> "Window":
        """The square window around a point, a pixel wide at least."""
        side = max(side, 1.0)
        return cls(round(x - side / 2), round(y - side / 2), round(side), round(side))

    def scaled(self, by: float) -> "Window":
        """The same part of the picture made smaller."""
        return Window(self.left * by, self.top * by, self.width * by, self.height * by)

    def seen(self, box: Box, size: int) -> Box:
        """A box of the picture in pixels of a crop, `size` wide."""
        x, y = size / self.width, size / self.height
        return mapped(box, x, y, -self.left * x, -self.top * y)


def shrunk(picture: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """An (H, W[, 3]) uint8 picture, made smaller where its longer side has more pixels than that."""
    height, width = picture.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def crop(picture: NDArray[np.uint8], window: Window, size: int, *, nearest: bool = False) -> NDArray[np.uint8]:
    """(size, size[, 3]) uint8: a window of an (H, W[, 3]) picture, black beyond it."""
    left, top = round(window.left), round(window.top)
    right, bottom = max(round(window.left + window.width), left + 1), max(round(window.top + window.height), top + 1)
    inner = picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inner.shape[:2] == (bottom - top, right - left):
        return _resized(inner, size, size, nearest=nearest)
    seen = np.zeros((size, size, *picture.shape[2:]), np.uint8)
    if inner.size:  # Shrunk before it is put in its place: a window may be much larger than its picture.
        x, y = size / (right - left), size / (bottom - top)
        column, row = min(round((max(left, 0) - left) * x), size - 1), min(round((max(top, 0) - top) * y), size - 1)
        across = min(max(round(inner.shape[1] * x), 1), size - column)
        down = min(max(round(inner.shape[0] * y), 1), size - row)
        seen[row : row + down, column : column + across] = _resized(inner, across, down, nearest=nearest)
    return seen


def _resized(picture: NDArray[np.uint8], width: int, height: int, *, nearest: bool) -> NDArray[np.uint8]:
    smaller = width < picture.shape[1] or height < picture.shape[0]
    way = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=way), np.uint8)


def resample(
    values: Field, source: Window, target: Window, size: tuple[int, int], rest: float | None, *, means: bool = True
) -> Field:
    """What values that are spread over one window say of another, bilinearly.

    Args:
        values: (h, w) float32 over `source`.
        source: Where they lie.
        target: What is wanted.
        size: (height, width) of the result.
        rest: Value outside of `source`; None goes on with those at its edge.
        means: Whether a coarser result holds means, and not samples.
    """
    height, width = size
    x, y = values.shape[1] / source.width, values.shape[0] / source.height
    across, down = target.width / width, target.height / height
    finer = max(across * x, down * y)
    if means and finer > 1.5:
        side = int(finer) | 1
        values = np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REPLICATE), np.float32)
    move = np.array(
        [
            [across * x, 0, (target.left + across / 2 - source.left) * x - 0.5],
            [0, down * y, (target.top + down / 2 - source.top) * y - 0.5],
        ]
    )
    way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(values, move, (width, height), flags=way, borderMode=cv2.BORDER_REPLICATE)
    if rest is not None:
        columns, rows = target.left + (np.arange(width) + 0.5) * across, target.top + (np.arange(height) + 0.5) * down
        moved[:, (columns < source.left) | (columns >= source.left + source.width)] = rest
        moved[(rows < source.top) | (rows >= source.top + source.height)] = rest
    return np.asarray(moved, np.float32)


def spot(clicks: Field, x: float, y: float) -> None:
    """Marks a click on an (S, S) map, at (x, y) in its pixels."""
    rows, columns = np.arange(clicks.shape[0]) + 0.5 - y, np.arange(clicks.shape[1]) + 0.5 - x
    np.maximum(clicks, np.exp(-((rows**2)[:, None] + columns**2) / (2 * _SIGMA**2)), out=clicks, casting="same_kind")


def box_map(size: int, box: Box) -> Field:
    """(size, size): 1 within the box, -1 without; pixels that its sides cross lie between."""
    edges = np.arange(size)
    across = np.clip(np.minimum(edges + 1, box.x_max) - np.maximum(edges, box.x_min), 0, 1)
    down = np.clip(np.minimum(edges + 1, box.y_max) - np.maximum(edges, box.y_min), 0, 1)
    return np.asarray(2 * down[:, None] * across - 1, np.float32)
