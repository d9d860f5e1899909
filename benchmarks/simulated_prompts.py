"""Prompts that a person might give for an object of which the true mask is known."""

import cv2
import numpy as np
from cutout_server.types import BoolMask, Box, ObjectPrompt


def simulate(truth: BoolMask, seed: int) -> dict[str, ObjectPrompt]:
    """One prompt of each kind.

    Args:
        truth: (H, W) bool.
        seed: For the kinds that are drawn at random.

    Returns:
        By kind. A loose box has 5 to 20% of the object's size added at each side; five clicks are one at the point
        farthest from the outline, two more inside and two outside, within 15% of the picture's longer side; the last
        kind joins them and a box whose sides are moved by up to 12% either way.
    """
    rng = np.random.default_rng(seed)
    height, width = truth.shape
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    size = np.tile(tight[2:] - tight[:2], 2)
    loose = tight + rng.uniform(0.05, 0.2, 4) * size * (-1, -1, 1, 1)
    jittered = tight + rng.uniform(-0.12, 0.12, 4) * size
    inside, outside = _clicks(truth, rng)
    points = np.concatenate([inside, outside]).astype(np.float32)
    labels = np.array([1] * len(inside) + [0] * len(outside), np.int32)

    def box(sides: np.ndarray) -> Box:
        return Box(*np.clip(sides, 0, (width, height, width, height)).tolist())

    return {
        "tight box": ObjectPrompt(box=box(tight)),
        "loose box": ObjectPrompt(box=box(loose)),
        "five clicks": ObjectPrompt(points=points, labels=labels),
        "box and clicks": ObjectPrompt(points=points, labels=labels, box=box(jittered)),
    }


def _clicks(truth: BoolMask, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    depth = cv2.distanceTransform(np.pad(truth, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    inside = [np.array(np.unravel_index(depth.argmax(), depth.shape)[::-1]) + 0.5]
    deep = np.argwhere(depth > max(1.0, min(0.35 * depth.max(), 8.0)))
    for _ in range(2):
        if len(deep):
            drawn = deep[rng.integers(0, len(deep), 30)][:, ::-1] + 0.5
            nearest = np.min([np.linalg.norm(drawn - click, axis=1) for click in inside], axis=0)
            inside.append(drawn[nearest.argmax()])
    away = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 5)
    longer = max(truth.shape)
    near = np.argwhere((away > max(3.0, 0.02 * longer)) & (away < 0.15 * longer))
    outside = near[rng.integers(0, len(near), 2)][:, ::-1] + 0.5 if len(near) else np.zeros((0, 2))
    return np.array(inside), outside
