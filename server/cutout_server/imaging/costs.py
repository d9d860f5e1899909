"""What decoding a file takes, told from its header and skeleton before any decoder is asked.

Time is counted in pixels: as many of an ordinary JPEG, of which a core decodes 200 million a second, as take as long.
So a progressive JPEG of a hundred scans, or a picture that is hard to inflate, counts as the large one that it is to a
decoder. `benchmarks/decoding.py` compares with what was measured. Frames behind the first of an animation and colour
profiles cost nothing, as nobody decodes them.
"""

from cutout_common import jpeg
from PIL import Image

_NS_PER_PIXEL = 5.0  # Of an ordinary JPEG.
# Nanoseconds for each pixel, and for each byte of the file.
_BY_FORMAT = {
    "JPEG": (5.0, 8.0),
    "WEBP": (20.0, 40.0),
    "AVIF": (20.0, 65.0),
    "HEIF": (30.0, 80.0),
    "GIF": (10.0, 5.0),
}
_PROGRESSIVE_BYTE = 30.0
_SCAN = 1.5  # For each pixel, however little is in it.
_PNG_VALUE, _PNG_BYTE = 12.0, 5.0
_BMP_VALUE, _BMP_RLE_BYTE = 2.0, 150.0
_TIFF_VALUE, _TIFF_BYTE, _TIFF_LZMA_BYTE = 6.0, 8.0, 60.0
_TIFF_JPEG = frozenset(("jpeg", "tiff_jpeg"))
_STRIP_SIZES, _TILE_SIZES = 279, 325  # StripByteCounts, TileByteCounts
_SCAN_MARKER = b"\xff\xda"


def work(content: bytes, image: Image.Image, file_format: str, coded_pixels: int) -> int:
    """Pixels of an ordinary JPEG that take as long.

    Args:
        content: The file.
        image: The same, opened by Pillow and not loaded.
        file_format: What `formats.identify` said of it.
        coded_pixels: How many are in the file, if they are not those of the picture.
    """
    pixels = max(coded_pixels, image.width * image.height)
    match file_format:
        case "PNG":
            nanoseconds = pixels * _PNG_VALUE * _values(image) + len(content) * _PNG_BYTE
        case "BMP":
            nanoseconds = pixels * _BMP_VALUE * _values(image)
            if _raw_mode(image) == "bmp_rle":
                nanoseconds += len(content) * _BMP_RLE_BYTE
        case "TIFF":
            nanoseconds = _tiff(content, image, pixels)
        case _:
            per_pixel, per_byte = _BY_FORMAT[file_format]
            nanoseconds = pixels * per_pixel + len(content) * per_byte
            if file_format == "JPEG" and image.info.get("progressive"):
                nanoseconds += _scans(pixels, content.count(_SCAN_MARKER), len(content))
    return int(nanoseconds / _NS_PER_PIXEL)


def room(image: Image.Image, coded_pixels: int, *, is_turned: bool) -> int:
    """Pixels, of three bytes, that are in memory while it is decoded: its own, and those of copies and coefficients.

    Args:
        image: The picture, opened by Pillow and not loaded.
        coded_pixels: See `work`.
        is_turned: Whether it is yet to be turned upright.
    """
    pixels = image.width * image.height
    bands = len(image.getbands())
    beside = 3 * pixels * is_turned
    if image.format != "JPEG" or image.mode != "RGB":
        beside += max(coded_pixels, pixels) * (_values(image) if bands == 1 else 4)  # As Pillow has it.
    if image.info.get("progressive"):
        beside += pixels * bands * 2  # Coefficients.
    return pixels + beside // 3


def _scans(pixels: int, scans: float, size: int) -> float:
    """What it takes to paint the same pixels again and again, from so many bytes."""
    return pixels * min(scans, jpeg.MAX_SCANS) * _SCAN + size * _PROGRESSIVE_BYTE


def _tiff(content: bytes, image: Image.Image, pixels: int) -> float:
    """Of its first page, whose strips or tiles may be the same bytes again and again."""
    compression = image.info.get("compression", "raw")
    tags = image.tag_v2  # type: ignore[attr-defined]
    sizes = tags.get(_STRIP_SIZES) or tags.get(_TILE_SIZES) or (len(content),)
    size = sum(sizes)
    nanoseconds = pixels * _TIFF_VALUE * _values(image)
    nanoseconds += size * (_TIFF_LZMA_BYTE if compression == "lzma" else _TIFF_BYTE)
    if compression in _TIFF_JPEG:  # Any of them may be progressive.
        scans = content.count(_SCAN_MARKER) * max(1, size / len(content))
        nanoseconds += _scans(pixels, scans / len(sizes), size)
    return nanoseconds


def _values(image: Image.Image) -> int:
    """Bytes of a pixel before it is brought to 8 bits."""
    return len(image.getbands()) * (2 if "16" in _raw_mode(image) or image.mode.startswith("I") else 1)


def _raw_mode(image: Image.Image) -> str:
    tile = image.tile[0] if image.tile else None  # type: ignore[attr-defined]
    if tile is None:
        return ""
    args = tile[3]
    return tile[0] if tile[0] == "bmp_rle" else str(args if isinstance(args, str) or not args else args[0])
