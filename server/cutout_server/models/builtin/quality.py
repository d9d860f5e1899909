"""How good a mask is likely to be: what can be seen of it without knowing the truth."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.scene import Field, Scene


def traits(scene: Scene, labels: Field, before: Field, evidence: Field) -> NDArray[np.float32]:
    """What tells good masks from bad ones.

    Args:
        scene: Where the mask was made.
        labels: (h, w) float32 in [0, 1], the mask.
        before: The same one look earlier.
        evidence: (h, w) float32 log odds that the labels follow.

    Returns:
        (10,) float32: 1, mean sharpness along the outline, agreement with the look before, share of undecided pixels,
        mean evidence within, mean evidence just outside, mean and largest distance from the four sides of the box,
        share of the box, outline's length against that of a disc.
    """
    inside = labels > 0.5
    area = float(max(inside.sum(), 1))
    across = inside[:, 1:] != inside[:, :-1]
    down = inside[1:] != inside[:-1]
    crossings = float(across.sum() + down.sum())
    sharp = float((1 - scene.edges.right[:, :-1])[across].sum() + (1 - scene.edges.below[:-1])[down].sum())
    was = before > 0.5
    agreement = float((inside & was).sum()) / max(float((inside | was).sum()), 1.0)
    near = cv2.dilate(inside.view(np.uint8), np.ones((9, 9), np.uint8)).view(np.bool_) & ~inside
    gaps = _gaps(scene, inside)
    box_area = max(float(np.prod(scene.box[2:] - scene.box[:2])), 1.0)
    bounded = np.tanh(evidence / 4)
    return np.array(
        [
            1,
            sharp / max(crossings, 1),
            agreement,
            float(np.minimum(labels, 1 - labels).sum()) / area,
            bounded[inside].mean() if inside.any() else 0,
            bounded[near].mean() if near.any() else -1,
            gaps.mean(),
            gaps.max(),
            min(area / box_area, 1.5),
            np.log((crossings + 1) / np.sqrt(4 * np.pi * area)),
        ],
        np.float32,
    )


def _gaps(scene: Scene, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(4,) how far the mask stays from each side of the box, in parts of the box; positive or not."""
    if not inside.any():
        return np.ones(4, np.float32)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    size = np.maximum(scene.box[2:] - scene.box[:2], 1)
    return np.asarray(np.clip(abs(tight - scene.box) / np.tile(size, 2), 0, 1), np.float32)
