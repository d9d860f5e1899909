"""Colour JPEGs and large RGB PNGs straight to their array, without the one of four bytes a pixel that Pillow makes.

simplejpeg and Pillow decode with libjpeg-turbo in its exact mode, so that the pixels are the same to the bit; PNG has
no loss. What there is anything wrong with is left to Pillow, which repairs it or says what it is.
"""

import io

import numpy as np
import simplejpeg
from cutout_server.imaging.png_bands import decode_bands
from cutout_server.types import RgbImage
from numpy.typing import NDArray
from PIL import Image

_LARGE = 4_000_000  # Pixels of a PNG whose second array weighs more than the time of its bands.


def decode_rgb(content: bytes, image: Image.Image) -> RgbImage | None:
    """The pixels as stored, without their orientation.

    Args:
        content: The file.
        image: The same, opened by Pillow and not loaded; says what the file is.

    Returns:
        (H, W, 3) uint8, C-contiguous; None for other kinds of files, and for damaged ones.
    """
    try:
        if image.format == "JPEG" and image.mode == "RGB":
            return _decode_jpeg(content, "RGB", 3, image)
        if image.format == "PNG" and image.width * image.height >= _LARGE and _is_plain(image):
            return decode_bands(io.BytesIO(content), image.width, image.height)
    except ValueError:
        return None
    return None


def check_data(content: bytes, image: Image.Image) -> None:
    """Looks whether all of a JPEG's data is there, as Pillow does not once there is an end marker.

    Raises:
        ValueError: It is not.
    """
    colours, channels = {"L": ("GRAY", 1), "RGB": ("RGB", 3), "CMYK": ("CMYK", 4)}[image.mode]
    _decode_jpeg(content, colours, channels, image)


def _decode_jpeg(content: bytes, colours: str, channels: int, image: Image.Image) -> NDArray[np.uint8]:
    stored = np.empty((image.height, image.width, channels), np.uint8)
    try:
        simplejpeg.decode_jpeg(content, colours, buffer=stored)
    except ValueError as error:
        # The first thing that libjpeg found is told: before this one the picture is complete and as it should be.
        if not str(error).endswith("extraneous bytes before marker 0xd9"):
            raise
    return stored


def _is_plain(image: Image.Image) -> bool:
    """Whether a PNG's values are those of its pixels: 8 bits, opaque, not interlaced, not animated."""
    odd = {"transparency", "interlace"} & image.info.keys()
    frames = getattr(image, "n_frames", 1)
    tiles = image.tile  # type: ignore[attr-defined]
    return image.mode == "RGB" and not odd and frames == 1 and all(tile[3] == "RGB" for tile in tiles)
