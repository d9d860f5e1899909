"""How an object looks: the colours that it has and its surroundings have not, and a small picture of it."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.crops import Field
from cutout_server.types import Box, RgbImage

_BINS = 8  # Of each channel.
_TEMPLATE = 48  # Longer side of the small picture, in pixels.
_SCALES = (0.8, 1.0, 1.25)
_MATCH = 0.5  # Correlation from which a place is looked at.
MOST_BYTES = 4 * _BINS**3 + 3 * _TEMPLATE**2  # Of an `Appearance`.

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Appearance:
    """An object's look.

    Attributes:
        colours: (bins,) float32 shares, which sum to 1; all 0 for an object that was never seen.
        template: (h, w, 3) uint8 RGB around it, as it looked when it was last seen whole.
        size: (height, width) of that in the small frame, in pixels.
    """

    colours: Field = field(repr=False)
    template: RgbImage = field(repr=False)
    size: tuple[int, int]

    @classmethod
    def of(cls, pixels: RgbImage, inside: Mask) -> "Appearance":
        """That of an object in a frame."""
        return cls(_colours(pixels, inside), *_template(pixels, inside))

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self.colours.nbytes + self.template.nbytes

    def likeness(self, pixels: RgbImage, inside: Mask) -> float:
        """In [0, 1]: the share of colours in common (Swain and Ballard 1991)."""
        return float(np.minimum(self.colours, _colours(pixels, inside)).sum())

    def learned(self, pixels: RgbImage, inside: Mask, weight: float) -> "Appearance":
        """The same with a further look at the object."""
        if not inside.any():
            return self
        if not self.colours.any():
            return Appearance.of(pixels, inside)
        colours = (1 - weight) * self.colours + weight * _colours(pixels, inside)
        template, size = _template(pixels, inside)
        return replace(self, colours=colours.astype(np.float32), template=template, size=size)


def search(appearance: Appearance, pixels: RgbImage) -> Box | None:
    """Where in a frame something looks most like the object, in shares of the frame; None if nothing does."""
    best, place = _MATCH, None
    height, width = pixels.shape[:2]
    for scale in _SCALES:
        rows, columns = (max(4, round(side * scale)) for side in appearance.size)
        if rows >= height or columns >= width:
            continue
        template = cv2.resize(appearance.template, (columns, rows), interpolation=cv2.INTER_AREA)
        scores = cv2.matchTemplate(pixels, template, cv2.TM_CCOEFF_NORMED)
        _, score, _, (left, top) = cv2.minMaxLoc(scores)
        if score > best:
            best = score
            place = Box(left / width, top / height, (left + columns) / width, (top + rows) / height)
    return place


def _colours(pixels: RgbImage, inside: Mask) -> Field:
    chosen = pixels[inside]
    if not len(chosen):
        return np.zeros(_BINS**3, np.float32)
    bins = (chosen // (256 // _BINS)).astype(np.int32) @ np.array([_BINS * _BINS, _BINS, 1], np.int32)
    counts = np.bincount(bins, minlength=_BINS**3).reshape(_BINS, _BINS, _BINS) / len(chosen)
    for axis in range(3):  # Light changes, and noise: neighbours are nearly alike.
        padded = np.pad(counts, [(1, 1) if axis == each else (0, 0) for each in range(3)], mode="edge")
        below, here, above = (np.take(padded, range(start, start + _BINS), axis) for start in range(3))
        counts = below / 4 + here / 2 + above / 4
    return counts.ravel().astype(np.float32)


def _template(pixels: RgbImage, inside: Mask) -> tuple[RgbImage, tuple[int, int]]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return np.zeros((1, 1, 3), np.uint8), (1, 1)
    part = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(1.0, _TEMPLATE / max(part.shape[:2]))
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8), (part.shape[0], part.shape[1])
