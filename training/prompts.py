"""Prompts as maps, made up for training the way that callers give them."""

import cv2
import numpy as np
from cutout_server.types import Box
from numpy.random import Generator


def jittered(box: np.ndarray, random: Generator) -> Box:
    """A box (x_min, y_min, x_max, y_max) as a hand draws it; most are tight."""
    width, height = box[2] - box[0], box[3] - box[1]
    spread = random.choice([0.0, 0.03, 0.06, 0.1])
    moved = box + random.normal(0, 1, 4) * spread * np.array([width, height, width, height])
    if random.random() < 0.25:
        loose = random.uniform(0, 0.2, 4) * np.array([width, height, width, height])
        moved += np.array([-1, -1, 1, 1]) * loose
    if moved[2] - moved[0] < 2 or moved[3] - moved[1] < 2:
        moved = box
    return Box(*moved.tolist())


def inside(mask: np.ndarray, random: Generator | None) -> tuple[float, float]:
    """Where a click falls on a non-empty (H, W) bool mask: in its middle, or anywhere but more likely there."""
    depth = cv2.distanceTransform(np.pad(mask.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    if random is None or random.random() < 0.25 or depth.max() == 0:
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    else:
        least = depth.max() * random.choice([0.0, 0.3, 0.6])
        places = np.flatnonzero(depth > least)
        y, x = np.unravel_index(int(random.choice(places)), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def mistake(wrong: np.ndarray) -> np.ndarray | None:
    """The largest connected part of an (H, W) bool map of what is wrong; None where nothing is."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(wrong.view(np.uint8), connectivity=4)
    if count < 2:
        return None
    return labels == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())


def spoiled(mask: np.ndarray, random: Generator) -> np.ndarray:
    """(S, S) float32 in [-1, 1]: a true (S, S) uint8 mask as a coarser look would have found it."""
    size = len(mask)
    coarse = int(random.integers(8, 40))
    small = cv2.resize(mask, (coarse, coarse), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    waves = random.normal(0, 1, (int(random.integers(3, 9)),) * 2).astype(np.float32)
    waves = cv2.resize(waves, (coarse, coarse), interpolation=cv2.INTER_CUBIC)
    logits = 6 * (small - 0.5 + random.uniform(0, 0.5) * waves + random.normal(0, 0.12))
    return np.tanh(cv2.resize(logits, (size, size)) * random.uniform(0.4, 1.2)).astype(np.float32)
