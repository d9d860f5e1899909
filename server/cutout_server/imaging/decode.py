"""Bytes to upright RGB pixels.

Pillow reads the formats; what it leaves open is settled here: which formats, how many pixels, and that nothing but an
InvalidRequestError comes out, whatever the bytes are. Colour profiles (ICC) and gamma are ignored: values are taken as
sRGB, as every model's own preprocessing does.
"""

import contextlib
import hashlib
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from cutout_common import formats, opening, upright
from cutout_common.formats import CONTENT_TYPES
from cutout_common.jpeg import StructureError
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import costs, heif, structure
from cutout_server.imaging.direct import check_data, decode_rgb
from cutout_server.types import Picture, RgbImage, TensorImage
from PIL import Image, TiffImagePlugin

TOO_COSTLY = "IMAGE_TOO_COSTLY"

# ImageLimits rules, for every picture and before any is decoded.
Image.MAX_IMAGE_PIXELS = None
# Pillow's own reading of uncompressed TIFF mistakes 16-bit planes for 8-bit ones; libtiff does not.
TiffImagePlugin.READ_LIBTIFF = True
# Pillow warns of odd metadata, which is no concern of whoever runs the server.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# A picture may take as long as so many of the greatest size, and small ones half a second in any case.
_WORK_FACTOR = 32
_WORK_SLACK = 100_000_000
# A picture may be coded as so many times its own pixels: in tiles that reach beyond it, with alpha.
_CODED_FACTOR = 4
_CODED_SLACK = 1 << 20
_CANON_RAW = b"CR"
_SUBFILE_TYPE, _SUB_PAGES, _DNG_VERSION = 254, 330, 50706


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may be at most.

    Attributes:
        max_bytes: Size of the file.
        max_pixels: Columns times rows.
    """

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True)
class ImageHeader:
    """What a file's header says.

    Attributes:
        width: Columns of the upright picture.
        height: Rows of the upright picture.
        content_type: "image/jpeg" and the like.
    """

    width: int
    height: int
    content_type: str


@dataclass(frozen=True)
class Job:
    """A file, and what is known about it before it is opened.

    Attributes:
        content: Its bytes.
        limits: What it may be at most.
        field: The field that errors name.
    """

    content: bytes
    limits: ImageLimits
    field: str


@dataclass(frozen=True)
class OpenedFile:
    """A file whose header was read and is within the limits.

    Attributes:
        header: What it says.
        job: What it takes to open it anew, in another process.
        work: How long decoding takes; see `costs.work`.
        room: How much memory it takes, in pixels of the picture.
    """

    header: ImageHeader
    job: "Job"
    work: int
    room: int
    _image: Image.Image
    _content: bytes
    _is_mended: bool  # Its end was put there by us.
    _orientation: int
    _field: str

    def read(self, stored: RgbImage | None = None) -> RgbImage:
        """Decodes it, once.

        Args:
            stored: What it holds before it is turned upright, if it was decoded as it arrived.

        Raises:
            InvalidRequestError: The file is damaged, or of a kind that says too little about its values.
        """
        image, orientation = self._image, self._orientation
        with _refusing_damage(self._field, self.header.content_type):
            if stored is None:
                stored = decode_rgb(self._content, image)
            if stored is None:
                if self._is_mended and image.format == "JPEG":
                    check_data(self._content, image)
                read_band = upright.band_reader(image)
                if read_band is None:
                    kinds = "expected 8 or 16 unsigned bits per value, got wider, signed or floating-point ones"
                    what = f"{kinds}; send a tensor"
                    raise InvalidRequestError.of(self._field, what, reason="IMAGE_FORMAT_UNSUPPORTED")
                size = image.size
                image.load()
                if image.size != size:
                    raise StructureError("another size than it says")
                return upright.assemble(size, orientation, read_band)
            if orientation == 1:
                return stored
            return upright.assemble(image.size, orientation, lambda top, bottom: stored[top:bottom])

    def picture(self, known_key: str = "", stored: RgbImage | None = None) -> Picture:
        """The decoded picture.

        Args:
            known_key: Its key if it is known from an earlier time, which is then not made again.
            stored: See `read`.

        Raises:
            InvalidRequestError: See `read`.
        """
        pixels = self.read(stored)
        return Picture.of(pixels, known_key or key(pixels))


def open_file(content: bytes, limits: ImageLimits, *, field: str = "image.content") -> OpenedFile:
    """Reads a file's header and decodes nothing.

    Args:
        content: The file.
        limits: What it may be at most; its pixels are counted from the header.
        field: The field that errors name.

    Raises:
        InvalidRequestError: The file is empty, of another format, damaged, beyond the limits, or takes much too long.
    """
    file_format = _identify(content, limits, field)
    content_type = CONTENT_TYPES[file_format]
    with _refusing_damage(field, content_type):
        picture = structure.check(content, file_format)
        image, coded = _open(picture, file_format, limits, field)
        exif = structure.png_exif(picture) if file_format == "PNG" else image.info.get("exif")
        orientation = upright.orientation(image, exif)
        width, height = image.size[::-1] if upright.is_turned(orientation) else image.size
        header = ImageHeader(width, height, content_type)
        work = costs.work(picture, image, file_format, coded)
        _check_work(work, limits, field)
        room = costs.room(image, coded, is_turned=orientation > 1)
        job = Job(content, limits, field)
        return OpenedFile(header, job, work, room, image, picture, picture is not content, orientation, field)


def probe(content: bytes, limits: ImageLimits, *, field: str = "image.content") -> ImageHeader:
    """What a file's header says; see `open_file`."""
    return open_file(content, limits, field=field).header


def decode(content: bytes, limits: ImageLimits, *, field: str = "image.content") -> Picture:
    """Decodes a JPEG, PNG, WebP, BMP, TIFF (first page), GIF (first frame), AVIF or HEIC.

    Grey, palette, CMYK and YCbCr become RGB; of 16-bit values the high byte stays; alpha is composited on white; the
    EXIF orientation is applied. Safe to call from any thread.

    Raises:
        InvalidRequestError: See `open_file` and `OpenedFile.read`.
    """
    return open_file(content, limits, field=field).picture()


def from_tensor(tensor: TensorImage, limits: ImageLimits, *, field: str = "image.tensor") -> Picture:
    """Takes pixels as they are: of 16-bit values the high byte, of floats round(255 * value), alpha on white.

    Args:
        tensor: (H, W, C) of uint8, uint16, or float32 in [0, 1]; C is 1, 3 or 4 (straight alpha).
        limits: What it may be at most.
        field: The field that errors name.

    Raises:
        InvalidRequestError: Shape, type or values are not as above, or the pixels are beyond the limits.
    """
    values = tensor.values
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise InvalidRequestError.of(field, f"expected (height, width, 1, 3 or 4) values, got shape {values.shape}")
    if values.dtype not in (np.uint8, np.uint16, np.float32):
        raise InvalidRequestError.of(f"{field}.dtype", f"expected uint8, uint16 or float32, got {values.dtype}")
    height, width, _ = values.shape
    _check_pixels(width, height, limits, field)
    # Written so that NaN fails, too.
    if values.dtype == np.float32 and not (values.min() >= 0 and values.max() <= 1):
        raise InvalidRequestError.of(f"{field}.data", "expected values in [0, 1], got others or NaN")
    pixels = upright.assemble((width, height), 1, lambda top, bottom: upright.tensor_band(values[top:bottom]))
    return Picture.of(pixels, key(pixels))


def key(pixels: RgbImage) -> str:
    """Hexadecimal BLAKE3 of what `digest` hashes, in a fifth of its time: what a picture goes by inside the server."""
    return blake3(_shape(pixels)).update(np.ascontiguousarray(pixels).data).hexdigest()


def digest(pixels: RgbImage) -> str:
    """Hexadecimal SHA-256 of height and width (32 bits each, little-endian) and then the (H, W, 3) uint8 values."""
    state = hashlib.sha256(_shape(pixels))
    state.update(np.ascontiguousarray(pixels).data)
    return state.hexdigest()


def _shape(pixels: RgbImage) -> bytes:
    return struct.pack("<II", *pixels.shape[:2])


@contextlib.contextmanager
def _refusing_damage(field: str, content_type: str) -> Iterator[None]:
    """Whatever a decoder raises means that the file is no good; its text is not ours to show."""
    name = content_type.removeprefix("image/").upper()
    try:
        yield
    except InvalidRequestError:
        raise
    except StructureError as error:
        raise InvalidRequestError.of(field, f"the {name} file has {error}", reason="IMAGE_DAMAGED") from error
    except Exception as error:
        what = f"the {name} file is truncated, damaged, or of a kind that is not supported"
        raise InvalidRequestError.of(field, what, reason="IMAGE_DAMAGED") from error


def _identify(content: bytes, limits: ImageLimits, field: str) -> str:
    if not content:
        raise InvalidRequestError.of(field, f"empty; expected a {opening.accepted()} file", reason="IMAGE_EMPTY")
    if len(content) > limits.max_bytes:
        what = f"expected at most {limits.max_bytes:,} bytes, got {len(content):,}"
        raise InvalidRequestError.of(field, what, reason="IMAGE_TOO_LARGE")
    file_format = formats.identify(content)
    if file_format in opening.readable():
        return file_format
    if file_format:
        raise _unsupported(opening.why_not(file_format), field)
    if name := formats.name_other(content):
        raise _unsupported(f"{name}, which is not read here", field)
    what = f"unknown format (it begins with {content[:8].hex(' ')}); expected a {opening.accepted()} file"
    raise InvalidRequestError.of(field, what, reason="IMAGE_FORMAT_UNKNOWN")


def _unsupported(what: str, field: str) -> InvalidRequestError:
    expected = f"{what}; expected a {opening.accepted()} file"
    return InvalidRequestError.of(field, expected, reason="IMAGE_FORMAT_UNSUPPORTED")


def _open(content: bytes, file_format: str, limits: ImageLimits, field: str) -> tuple[Image.Image, int]:
    """The picture as Pillow sees it, and how many pixels are in the file where they are not its own."""
    if file_format == "WEBP":
        _check_pixels(*structure.webp_canvas(content), limits, field)
    coded = heif.coded_pixels(content) if file_format in {"AVIF", "HEIF"} else 0
    image = opening.open_picture(content, file_format)
    if file_format == "TIFF" and (content[8:10] == _CANON_RAW or _is_preview(image)):
        raise _unsupported("camera raw, which is not read here", field)
    _check_pixels(image.width, image.height, limits, field)
    if coded > _CODED_FACTOR * image.width * image.height + _CODED_SLACK:
        raise StructureError("many more pixels inside than it shows")
    return image, coded


def _is_preview(image: Image.Image) -> bool:
    """Whether a TIFF's first page stands for a sensor's values on another: in DNG, and in what most cameras write."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    return _DNG_VERSION in tags or (_SUB_PAGES in tags and tags.get(_SUBFILE_TYPE, 0) & 1 == 1)


def _check_work(work: int, limits: ImageLimits, field: str) -> None:
    most = _WORK_FACTOR * limits.max_pixels + _WORK_SLACK
    if work > most:
        what = f"expected a file that takes at most as long to decode as an ordinary JPEG of {most:,} pixels"
        raise InvalidRequestError.of(
            field, f"{what}, got one like {work:,}: save it with fewer scans or less compression", reason=TOO_COSTLY
        )


def _check_pixels(width: int, height: int, limits: ImageLimits, field: str) -> None:
    if width < 1 or height < 1:
        raise InvalidRequestError.of(
            field, f"expected at least 1 x 1 pixels, got {width} x {height}", reason="IMAGE_EMPTY"
        )
    if width * height > limits.max_pixels:
        what = f"expected at most {limits.max_pixels:,} pixels, got {width} x {height} = {width * height:,}"
        raise InvalidRequestError.of(field, what, reason="IMAGE_TOO_LARGE")
