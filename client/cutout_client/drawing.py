"""Pictures to draw objects on, and parts cut out of them."""

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from cutout_client.images import Picture
from cutout_client.prompts import Box

_GROUND = 235  # where there is no picture


def cut_out(pixels: NDArray[np.uint8], box: Box, mask: NDArray[np.bool_]) -> PIL.Image.Image:
    """What is inside a mask, alone: RGBA, cropped to its box, transparent outside of it."""
    x_min, y_min, x_max, y_max = map(int, box)
    window = np.s_[y_min:y_max, x_min:x_max]
    return PIL.Image.fromarray(np.dstack([pixels[window], mask[window] * np.uint8(255)]))


def ground_of(picture: Picture | None, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3): the picture, or where it is not here, or no longer, a plain ground."""
    try:
        pixels = picture.rgb() if picture is not None and picture.is_here else None
    except (OSError, ValueError):
        pixels = None
    if pixels is None or pixels.shape[:2] != size:
        return np.full((*size, 3), _GROUND, np.uint8)
    return pixels
