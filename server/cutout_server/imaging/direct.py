"""Colour JPEGs straight to their array, without the copy with a fourth byte for each pixel that Pillow makes.

simplejpeg and Pillow decode with libjpeg-turbo in its exact mode, so that the pixels are the same to the bit. What
simplejpeg finds anything wrong with is left to Pillow, which repairs it or says what it is.
"""

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from cutout_server.types import RgbImage
from PIL import Image


def decode_rgb(content: bytes, image: Image.Image) -> RgbImage | None:
    """The pixels as stored, without their orientation.

    Args:
        content: The file.
        image: The same, opened by Pillow and not loaded; says what the file is.

    Returns:
        (H, W, 3) uint8, C-contiguous; None for other kinds of files, and for damaged ones.
    """
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    stored = np.empty((image.height, image.width, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(content, "RGB", buffer=stored)
    except ValueError:
        return None
    return stored
