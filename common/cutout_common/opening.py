"""Picture files opened by Pillow: the same formats, in the same way, at both ends."""

import importlib.util
import io
from collections.abc import Callable
from functools import cache

# Plugins register themselves here and not at the first picture, which could be two at once on two threads.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from cutout_common.distribution import install_hint
from cutout_common.formats import CONTENT_TYPES

_NAMES = {"WEBP": "WebP", "HEIF": "HEIC"}
# A picture is one thread's work, as in every other format, so that many are fair to each other.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@cache
def readable() -> tuple[str, ...]:
    """Pillow's names of the formats that this installation reads."""
    absent = {"HEIF"} - ({"HEIF"} if importlib.util.find_spec("pillow_heif") else set())
    absent |= set() if AvifImagePlugin.SUPPORTED else {"AVIF"}
    return tuple(file_format for file_format in CONTENT_TYPES if file_format not in absent)


def accepted() -> str:
    """What people call them."""
    *names, last = (_NAMES.get(file_format, file_format) for file_format in readable())
    return f"{', '.join(names)} or {last}"


def why_not(file_format: str) -> str:
    """What a format that is not readable lacks."""
    if file_format == "HEIF":
        return f"HEIC, which takes pillow-heif here ({install_hint('heif')})"
    return f"{file_format}, which Pillow was built without here"


def open_picture(content: bytes, file_format: str) -> Image.Image:
    """Reads the header of a file.

    Args:
        content: The file.
        file_format: Pillow's name of what it is, among `readable`.
    """
    file = io.BytesIO(content)
    if file_format == "HEIF":
        return _heif()(file)
    if file_format == "JPEG":  # Alone, even if it names others that stand behind it.
        return JpegImagePlugin.JpegImageFile(file)
    return Image.open(file, formats=(file_format,))


@cache
def _heif() -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    """Its reader; HEIF pictures come out upright."""
    from pillow_heif import options  # noqa: PLC0415 - an extra
    from pillow_heif.as_plugin import HeifImageFile  # noqa: PLC0415

    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    opener: Callable[[io.BytesIO], ImageFile.ImageFile] = HeifImageFile
    return opener
