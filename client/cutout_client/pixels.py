"""Pillow images and arrays of all kinds brought to 8 bits."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from cutout_common import formats, jpeg, opening, upright
from numpy.typing import NDArray


def from_pillow(image: PIL.Image.Image) -> NDArray[Any]:
    """The values of an image as they stand, (H, W) or (H, W, C); palettes and rare modes become RGB or RGBA."""
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    if image.mode in {"L", "RGB", "F"} or image.mode.startswith("I;16"):
        return np.asarray(image)
    if image.mode == "I":  # how Pillow opens many 16-bit files
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("a Pillow image of mode I must have values in [0, 65535]")
        return values.astype(np.uint16)
    return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))


def to_pillow(values: NDArray[np.uint8]) -> PIL.Image.Image:
    """(H, W, C) as an image."""
    return PIL.Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Any picture array as (H, W, C) uint8.

    Raises:
        ValueError: Another shape, or values outside of [0, 1].
        TypeError: Another dtype.
    """
    shaped = values[..., None] if values.ndim == 2 else values
    if shaped.ndim != 3 or shaped.shape[2] not in {1, 3, 4} or 0 in shaped.shape:
        raise ValueError(f"a picture array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {values.shape}")
    shaped = shaped.astype(shaped.dtype.newbyteorder("="), copy=False)  # Equal types differ by their byte order, too.
    if shaped.dtype == np.uint8:
        return shaped
    if shaped.dtype == np.uint16:
        return (shaped >> 8).astype(np.uint8)  # the high byte, as the server does
    if np.issubdtype(shaped.dtype, np.floating):
        if not (shaped.min() >= 0 and shaped.max() <= 1):  # false for NaN too
            raise ValueError("a picture array of floats must have values in [0, 1]")
        scaled: NDArray[np.uint8] = np.rint(shaped * 255).astype(np.uint8)
        return scaled
    raise TypeError(f"a picture array must be uint8, uint16 or floats in [0, 1], not {values.dtype}")


def read_rgb(file: Path | bytes) -> NDArray[np.uint8]:
    """A picture file as the upright picture, (H, W, 3)."""
    with _open(file) as image:
        read_band = upright.band_reader(image)
        if read_band is None:  # The server refuses these.
            return on_white(to_pillow(eight_bits(from_pillow(PIL.ImageOps.exif_transpose(image)))))
        image.load()
        return upright.assemble(image.size, upright.orientation(image, image.info.get("exif")), read_band)


def _open(file: Path | bytes) -> PIL.Image.Image:
    """As the server opens it; what the server does not take, as Pillow does."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    file_format = formats.identify(content)
    if file_format not in opening.readable():
        return PIL.Image.open(io.BytesIO(content))
    return opening.open_picture(jpeg.ended(content) if file_format == "JPEG" else content, file_format)


def on_white(image: PIL.Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3), composited on white."""
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    white = PIL.Image.new("RGBA", image.size, "white")
    return np.asarray(PIL.Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
