"""The square that SAM 1 and its descendants look at: the picture with its longer side at 1024 pixels, and padding."""

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.bilinear import Interpolation
from cutout_server.types import ObjectPrompt


def resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) of a picture in the square, as `ResizeLongestSide` has it, but of one pixel at least."""
    scale = side / max(size)
    height, width = (max(1, int(length * scale + 0.5)) for length in size)
    return height, width


def points(prompt: ObjectPrompt, size: tuple[int, int], side: int) -> NDArray[np.float32]:
    """(N, 2) of the prompt's points, in pixels of the square."""
    return (prompt.points * _scale(size, side)).astype(np.float32)


def corners(prompt: ObjectPrompt, size: tuple[int, int], side: int) -> NDArray[np.float32]:
    """(4,) of the prompt's box, in pixels of the square."""
    box = prompt.box
    assert box is not None  # noqa: S101 - prompts are told apart before
    xyxy = np.array([[box.x_min, box.y_min], [box.x_max, box.y_max]])
    return (xyxy * _scale(size, side)).astype(np.float32).reshape(4)


def interpolations(size: tuple[int, int], side: int) -> tuple[Interpolation, ...]:
    """From logits over the square to the picture, as `Sam.postprocess_masks` has it."""
    return Interpolation((side, side), resized(size, side)), Interpolation(size, size)


def _scale(size: tuple[int, int], side: int) -> NDArray[np.float64]:
    """(2,) pixels of the square to a pixel of the picture, for x and y."""
    height, width = resized(size, side)
    return np.array([width / size[1], height / size[0]])
