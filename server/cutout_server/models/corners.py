"""Prompts as the prompt encoder of SAM 2 takes them: a box is its two corners, each with a label of its own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cutout_server.types import ObjectPrompt

_BOX_LABELS = (2, 3)


def box_and_points(prompts: Sequence[ObjectPrompt]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(N, 2 + P, 2) coordinates in pixels and (N, 2 + P) labels of prompts of one form; (N, P, 2) without a box."""
    return np.stack([_coords(prompt) for prompt in prompts]), np.stack([_labels(prompt) for prompt in prompts])


def _coords(prompt: ObjectPrompt) -> NDArray[np.float32]:
    box = prompt.box
    corners = [(box.x_min, box.y_min), (box.x_max, box.y_max)] if box else []
    return np.concatenate([np.array(corners, np.float32).reshape(-1, 2), prompt.points]).astype(np.float32, copy=False)


def _labels(prompt: ObjectPrompt) -> NDArray[np.int32]:
    corners = _BOX_LABELS if prompt.box else ()
    return np.concatenate([np.array(corners, np.int32), prompt.labels]).astype(np.int32, copy=False)
