"""Labels beside objects: plates of text that stay inside the picture and off each other."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cutout_common.writing import set_line

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Plate:
    """A label.

    Attributes:
        index: Which object it belongs to.
        text: What it says.
        box: The object's left, top, right and bottom.
        peak: Column of the object's uppermost pixel, where a label hangs together with an object that does not fill the
            corners of its box.
        color: The object's RGB colour: the plate's ground.
    """

    index: int
    text: str
    box: Rectangle
    peak: int
    color: tuple[int, int, int]

    def size(self, letters: float) -> tuple[int, int]:
        """Columns and rows that it takes, with letters of so many pixels."""
        line, pad = set_line(self.text, letters), _padding(letters)
        return round(line.width) + 2 * pad, round(line.ascent + line.descent) + pad

    def draw(self, canvas: Image.Image, corner: tuple[int, int], letters: float) -> None:
        """Draws it with its upper left corner there."""
        width, height = self.size(letters)
        left, top = corner
        pen = ImageDraw.Draw(canvas)
        pen.rounded_rectangle((left, top, left + width - 1, top + height - 1), height / 5, fill=self.color)
        red, green, blue = self.color
        # Relative luminance without its gamma; above this black letters have more contrast than white ones.
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 115 else "white"
        line, pad = set_line(self.text, letters), _padding(letters)
        line.draw(pen, left + pad, top + pad / 2 + line.ascent, ink)


def place(plates: Sequence[Plate], size: tuple[int, int], letters: float) -> Iterator[tuple[Plate, tuple[int, int]]]:
    """Finds a place for each label: above its object where there is room, else wherever it covers others least.

    Args:
        plates: The labels, the most important first.
        size: Columns and rows of the picture.
        letters: How large they are written, in pixels.

    Yields:
        Each label, shortened when it is wider than the picture, and its upper left corner.
    """
    taken = np.zeros((0, 4), np.int64)
    for plate in plates:
        shortened = _fit(plate, size[0], letters)
        width, height = shortened.size(letters)
        if width > size[0] or height > size[1]:
            continue
        spots = np.array(list(_spots(plate, width, height)))
        # Moved to where they are wholly inside the picture.
        extent = np.array([width, height])
        corners = np.clip(spots, 0, np.array(size) - extent)
        rectangles = np.concatenate([corners, corners + extent], axis=1)
        best = rectangles[np.argmin(_covered(rectangles, taken))]
        taken = np.concatenate([taken, best[np.newaxis]])
        yield shortened, (int(best[0]), int(best[1]))


def _spots(plate: Plate, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Upper left corners, the best first."""
    left, top, right, bottom = plate.box
    middle = (left + right - width) // 2
    peak = max(plate.peak - width // 2, left)
    if top >= height:
        yield peak, top - height
        yield left, top - height
        yield middle, top - height
    yield peak, top
    yield left, top
    yield right - width, top
    yield right - width, top - height
    yield left, bottom
    yield right - width, bottom
    yield left, bottom - height
    for row in np.linspace(top + height, max(bottom - 2 * height, top + height), 8).astype(int):
        yield middle, int(row)


def _covered(rectangles: NDArray[np.int64], taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels that each of the rectangles shares with those that are taken."""
    low = np.maximum(rectangles[:, np.newaxis, :2], taken[:, :2])
    high = np.minimum(rectangles[:, np.newaxis, 2:], taken[:, 2:])
    shared: NDArray[np.int64] = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    return shared


def _fit(plate: Plate, width: int, letters: float) -> Plate:
    if plate.size(letters)[0] <= width:
        return plate
    shortened = [replace(plate, text=f"{plate.text[:length].rstrip()}…") for length in range(1, len(plate.text))]
    fitting = bisect_right(shortened, width, key=lambda short: short.size(letters)[0])
    return shortened[max(fitting - 1, 0)] if shortened else plate


def _padding(letters: float) -> int:
    line = set_line("", letters)
    return max(3, round(line.ascent + line.descent) // 4)
