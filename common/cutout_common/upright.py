"""From what Pillow decodes to upright 8-bit RGB, a band of rows at a time, so that no second whole picture is held."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

RgbImage = NDArray[np.uint8]  # (H, W, 3)

# Reads rows [top, bottom) of the picture as stored: (rows, W, 3) or (rows, W, 1) uint8.
BandReader = Callable[[int, int], NDArray[np.uint8]]

_BAND_PIXELS = 1 << 20
_TIFF_PHOTOMETRIC = 262
_EXIF_ORIENTATION = 0x0112

# Big-endian 16-bit grey of which 0 is white: the one that Pillow's table lacks.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

# Steps along the stored picture's rows and columns by orientation, after axes are swapped for 5 and above (Exif 2.32,
# section 4.6.4).
_STEPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}


def orientation(image: Image.Image, exif: bytes | None) -> int:
    """The EXIF orientation that is still to be applied to an opened picture, from 1 to 8.

    Args:
        image: The picture.
        exif: Its EXIF data.
    """
    # Pillow turns TIFF files itself while it loads them, and gives their size upright.
    if image.format == "TIFF" or not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - metadata that cannot be read says nothing, and the picture is as good without
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def is_turned(orientation: int) -> bool:
    """Whether an EXIF orientation exchanges width and height."""
    return orientation >= 5


def assemble(size: tuple[int, int], orientation: int, read_band: BandReader) -> RgbImage:
    """Reads a picture, each band straight into its place in the upright one.

    Args:
        size: Columns and rows of the picture as stored.
        orientation: EXIF orientation, from 1 to 8.
        read_band: Gives its rows.

    Returns:
        (H, W, 3) uint8, C-contiguous.
    """
    width, height = size
    upright = np.empty((width, height, 3) if is_turned(orientation) else (height, width, 3), np.uint8)
    as_stored = upright.swapaxes(0, 1) if is_turned(orientation) else upright
    row_step, column_step = _STEPS[orientation]
    as_stored = as_stored[::row_step, ::column_step]
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        as_stored[top : top + rows] = read_band(top, min(top + rows, height))
    return upright


def band_reader(image: Image.Image) -> BandReader | None:
    """How the bands of a picture are read once it is loaded; to be asked before.

    Returns:
        None for wide, signed and floating-point values: nothing says where their black and white are.
    """
    if image.mode in ("I", "F"):
        return None
    to_8_bit: Callable[[Image.Image], NDArray[np.uint8]] = _flatten
    args = image.tile[0][3] if image.tile else ""  # type: ignore[attr-defined]
    raw_mode = args if isinstance(args, str) else str(args[0])
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        to_8_bit = _grey16(image, raw_mode)
    elif raw_mode in ("L;2", "L;4") and transparent is not None:
        # tRNS names a grey of the file's own depth; Pillow scales the pixels to 8 bits and not it.
        image.info["transparency"] = transparent * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B" and transparent is not None:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return lambda top, bottom: to_8_bit(image.crop((0, top, image.width, bottom)))


def tensor_band(values: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w, C) values of uint8, uint16 or float32 in [0, 1] as (h, w, 3) or (h, w, 1) uint8."""
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    elif values.dtype == np.float32:
        values = np.rint(values * np.float32(255)).astype(np.uint8)
    if values.shape[2] == 4:
        return _flatten(Image.fromarray(np.ascontiguousarray(values)))
    return values


def _grey16(image: Image.Image, raw_mode: str) -> Callable[[Image.Image], NDArray[np.uint8]]:
    # Pillow's own conversion clips 16-bit grey instead of scaling it, and forgets about white-is-zero.
    shift = 4 if raw_mode == "I;12" else 8
    inverted = image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    transparent = image.info.get("transparency")

    def to_8_bit(band: Image.Image) -> NDArray[np.uint8]:
        values = np.asarray(band)
        grey = (values >> shift).astype(np.uint8)
        if inverted:
            grey = ~grey
        if transparent is not None:
            grey[values == transparent] = 255
        return grey[..., np.newaxis]

    return to_8_bit


def _flatten(band: Image.Image) -> NDArray[np.uint8]:
    if not band.has_transparency_data:
        band = band if band.mode == "L" else band.convert("RGB")
        return np.asarray(band).reshape(band.height, band.width, -1)
    band = band.convert("RGBA")
    white = Image.new("RGB", band.size, "white")
    white.paste(band, mask=band.getchannel("A"))
    return np.asarray(white)
