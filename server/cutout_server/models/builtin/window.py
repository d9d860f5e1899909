"""Rectangles of a picture brought to a size at which the work is cheap."""

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.types import Box, RgbImage

MAX_ENLARGEMENT = 4.0  # Beyond this, more pixels are only more blur.
_LONGEST = 2.0  # Longer side of a window, in sides of a square one.


@dataclass(frozen=True)
class Window:
    """[left, right) x [top, bottom) of a picture, seen at height x width pixels."""

    left: int
    top: int
    right: int
    bottom: int
    height: int
    width: int

    @classmethod
    def around(cls, box: Box, image_size: tuple[int, int], margin: float, budget: int) -> "Window":
        """The box and some of what surrounds it.

        Args:
            box: In pixels of the picture; it must overlap it.
            image_size: (height, width) of the picture.
            margin: What to add on each side, as a part of the box's mean side; at least four pixels.
            budget: Pixels of the window as seen, which a slender window may not fill.
        """
        height, width = image_size
        across, down = box.x_max - box.x_min, box.y_max - box.y_min
        pad = max(4.0, margin * max((across * down) ** 0.5, max(across, down) / 2))
        left, top = (max(0, min(int(v - pad), n - 1)) for v, n in ((box.x_min, width), (box.y_min, height)))
        right, bottom = (max(1, min(ceil(v + pad), n)) for v, n in ((box.x_max, width), (box.y_max, height)))
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        seen = (budget / ((right - left) * (bottom - top))) ** 0.5
        scale = min(seen, _LONGEST * budget**0.5 / max(right - left, bottom - top), MAX_ENLARGEMENT)
        rows, columns = (max(1, round(n * scale)) for n in (bottom - top, right - left))
        return cls(left, top, right, bottom, rows, columns)

    @property
    def scale(self) -> tuple[float, float]:
        """Window pixels per picture pixel, (x, y)."""
        return self.width / (self.right - self.left), self.height / (self.bottom - self.top)

    def to_window(self, xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """(..., 2) picture coordinates to window coordinates."""
        return ((np.asarray(xy, np.float32) - (self.left, self.top)) * self.scale).astype(np.float32)

    def crop(self, pixels: RgbImage) -> RgbImage:
        """(H, W, 3) uint8 picture to (height, width, 3) uint8."""
        part = pixels[self.top : self.bottom, self.left : self.right]
        shrinks = self.width < self.right - self.left
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(part, (self.width, self.height), interpolation=way), np.uint8)

    def sample(self, field: NDArray[np.float32], image_size: tuple[int, int]) -> NDArray[np.float32]:
        """What a field that is stretched over the whole picture holds here, bilinearly.

        Args:
            field: (h, w) float32 of any resolution.
            image_size: (height, width) of the picture.

        Returns:
            (height, width) float32.
        """
        rows, columns = image_size
        ys = _grid(self.top, self.bottom, self.height) * field.shape[0] / rows - 0.5
        xs = _grid(self.left, self.right, self.width) * field.shape[1] / columns - 0.5
        return _remap(field, xs, ys)

    def paste(
        self, part: NDArray[np.float32], image_size: tuple[int, int], size: tuple[int, int], rest: float
    ) -> NDArray[np.float32]:
        """The inverse of `sample`: a field over the whole picture that holds `part` here and `rest` elsewhere.

        Args:
            part: (height, width) float32.
            image_size: (height, width) of the picture.
            size: (h, w) of the field to make.
            rest: Value outside the window.
        """
        field = np.full(size, rest, np.float32)
        (rows, columns), (h, w) = image_size, size
        top, bottom = _span(self.top, self.bottom, h / rows, h)
        left, right = _span(self.left, self.right, w / columns, w)
        ys = ((np.arange(top, bottom) + 0.5) * rows / h - self.top) * self.scale[1] - 0.5
        xs = ((np.arange(left, right) + 0.5) * columns / w - self.left) * self.scale[0] - 0.5
        step = max(1.0, rows / h * self.scale[1])
        if step > 1.5:  # The window is finer than the field: take means, not samples.
            side = int(step) | 1
            part = np.asarray(cv2.blur(part, (side, side), borderType=cv2.BORDER_REPLICATE), np.float32)
        field[top:bottom, left:right] = _remap(part, xs.astype(np.float32), ys.astype(np.float32))
        return field


def _grid(start: int, end: int, count: int) -> NDArray[np.float32]:
    return (start + (np.arange(count) + 0.5) * (end - start) / count).astype(np.float32)


def _span(start: int, end: int, scale: float, limit: int) -> tuple[int, int]:
    low = min(int(start * scale), limit - 1)
    return low, max(low + 1, min(ceil(end * scale), limit))


def _remap(field: NDArray[np.float32], xs: NDArray[np.float32], ys: NDArray[np.float32]) -> NDArray[np.float32]:
    grid_x, grid_y = np.meshgrid(xs.astype(np.float32), ys.astype(np.float32))
    return np.asarray(cv2.remap(field, grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
