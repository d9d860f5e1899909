"""Plain 8-bit RGB files straight to their array, without the copy with a fourth byte for each pixel that Pillow makes.

OpenCV and Pillow decode with the same libjpeg-turbo in its exact mode, and PNG has no loss: the pixels are the same.
What OpenCV does not take is left to Pillow, which says what is wrong with it.
"""

import cv2
import numpy as np
from cutout_server.types import RgbImage
from PIL import Image

_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_rgb(content: bytes, image: Image.Image) -> RgbImage | None:
    """The pixels as stored, without their orientation.

    Args:
        content: The file.
        image: The same, opened by Pillow and not loaded; says what the file is.

    Returns:
        (H, W, 3) uint8, C-contiguous; None for other kinds of files, and for damaged ones.
    """
    if not _is_plain(image):
        return None
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), _FLAGS)
    except cv2.error:
        return None
    if decoded is None or decoded.shape != (image.height, image.width, 3) or decoded.dtype != np.uint8:
        return None
    return np.asarray(decoded, np.uint8)


def _is_plain(image: Image.Image) -> bool:
    if image.mode != "RGB" or "transparency" in image.info:
        return False
    if image.format == "PNG":
        return all(tile[3] == "RGB" for tile in image.tile)  # type: ignore[attr-defined]  # not 16 bits
    return image.format == "JPEG"
