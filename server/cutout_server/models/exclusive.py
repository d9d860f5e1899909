"""Masks of which no two share a pixel."""

from collections.abc import Iterable, Sequence

import numpy as np
from cutout_common.masks import rle_encode

from cutout_server.types import Logits, Rle


def exclusive(full: Iterable[Logits], thresholds: Sequence[float]) -> list[Rle]:
    """Gives each pixel to the object whose logits are highest there, the first of them if several are.

    As `SAM2VideoPredictor` with `non_overlap_masks`. Two objects are in memory at a time, however many there are; what
    is kept of each are run lengths.

    Args:
        full: (H, W) float32 of each object.
        thresholds: Of each object; logits above it are inside.
    """
    best, owner, count = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int32), 0
    for index, values in enumerate(full):
        if index == 0:
            best, owner = values.copy(), np.zeros(values.shape, np.int32)
        else:
            higher = values > best
            best[higher], owner[higher] = values[higher], index
        count += 1
    height, width = best.shape
    return [Rle(height, width, rle_encode((owner == index) & (best > thresholds[index]))) for index in range(count)]
