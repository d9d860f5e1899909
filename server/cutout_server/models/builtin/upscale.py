"""Logits to masks at the picture's size."""

import numpy as np

from cutout_server.models.builtin.crops import Field, Window, resample
from cutout_server.types import MaskPatch

_ROWS = 1024  # Made at a time: of very large pictures the logits at full size would take gigabytes.


def upscaled(logits: Field, threshold: float, image_size: tuple[int, int]) -> MaskPatch:
    """The mask of (h, w) logits that are spread over the whole picture, made only where it may be."""
    height, width = image_size
    rows, columns = (np.flatnonzero((logits > threshold).any(axis)) for axis in (1, 0))
    if not len(rows):
        return MaskPatch(height, width, 0, 0, np.zeros((0, 0), np.bool_))
    down, across = height / logits.shape[0], width / logits.shape[1]
    top, bottom = max(int((rows[0] - 1) * down), 0), min(int((rows[-1] + 2) * down) + 1, height)
    left, right = max(int((columns[0] - 1) * across), 0), min(int((columns[-1] + 2) * across) + 1, width)
    inside = np.zeros((bottom - top, right - left), np.bool_)
    frame = Window(0, 0, width, height)
    for start in range(top, bottom, _ROWS):
        count = min(_ROWS, bottom - start)
        band = Window(left, start, right - left, count)
        full = resample(logits, frame, band, (count, right - left), None, means=False)
        np.greater(full, threshold, out=inside[start - top : start - top + count])
    return MaskPatch(height, width, top, left, inside).tightened()


def full_size(logits: Field, image_size: tuple[int, int]) -> Field:
    """(H, W) float32: the logits at the picture's size, of which `upscaled` makes as little as it can."""
    height, width = image_size
    frame = Window(0, 0, width, height)
    return resample(logits, frame, frame, (height, width), None, means=False)
