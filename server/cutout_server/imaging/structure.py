"""Looks at a file's skeleton before any decoder does, so that a small file cannot cost much.

Decoders bound what they allocate, but not how long they follow a file that is made of nothing but tiny segments,
how often a progressive JPEG paints the same pixels, or what is reserved before its size is known. The walks here are
linear in the number of segments and stop at the first one too many, or where the picture ends: cameras and editors put
all sorts of things behind it.
"""

import struct
from collections.abc import Iterator

from cutout_common import jpeg
from cutout_common.formats import PNG_SIGNATURE
from cutout_common.jpeg import StructureError
from cutout_server.imaging import heif

# Generous beside what real files have: a 100-megapixel PNG in 8 KiB chunks has about 40,000 of them, TIFF directories
# some dozens of entries.
MAX_PNG_CHUNKS = 100_000
MAX_GIF_BLOCKS = 10_000
MAX_TIFF_ENTRIES = 4_096
MAX_TIFF_PIECES = 100_000
# Pillow reads run-length encoded BMP in Python, about 10 MB/s.
MAX_BMP_RLE_BYTES = 8 * 1024 * 1024

_TIFF_PIECE_TAGS = frozenset((273, 279, 324, 325))  # StripOffsets, StripByteCounts, TileOffsets, TileByteCounts


def check(content: bytes, file_format: str) -> bytes:
    """Walks the file's skeleton.

    Args:
        content: The file.
        file_format: What `formats.identify` said of it.

    Returns:
        What a decoder is to read: the same, or, where it would go astray at the picture's end, a copy that ends there.

    Raises:
        StructureError: There are more pieces than any real picture has.
        struct.error: The file ends inside a header.
        IndexError: Likewise.
    """
    match file_format:
        case "JPEG":
            return jpeg.ended(content)
        case "AVIF":
            return heif.as_still(content)
        case "BMP":
            return _without_bmp_trailer(content)
        case "GIF":
            _check_gif(content)
        case "PNG":
            _check_png(content)
        case "TIFF":
            _check_tiff(content)
    return content


def webp_canvas(content: bytes) -> tuple[int, int]:
    """Columns and rows that a WebP file declares; libwebp reserves its canvas as soon as it opens the file.

    Raises:
        ValueError: The first chunk is not a picture's.
        struct.error: The file ends before.
    """
    kind = content[12:16]
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", content, 24)
        return (high_w << 16 | low_w) + 1, (high_h << 16 | low_h) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ValueError("no picture chunk")


def png_exif(content: bytes) -> bytes | None:
    """The eXIf chunk of a PNG file; it may stand behind the pixels, where Pillow sees it only after reading them."""
    return next((content[at : at + size] for kind, at, size in _png_chunks(content) if kind == b"eXIf"), None)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    at, kind = len(PNG_SIGNATURE), b""
    while at + 12 <= len(content) and kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind, at + 8, size
        at += 12 + size


def _check_png(content: bytes) -> None:
    if sum(1 for _ in zip(range(MAX_PNG_CHUNKS + 1), _png_chunks(content), strict=False)) > MAX_PNG_CHUNKS:
        raise StructureError(f"more than {MAX_PNG_CHUNKS:,} chunks")


def _check_gif(content: bytes) -> None:
    at = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    in_extension = False
    for _ in range(MAX_GIF_BLOCKS):
        first = content[at]
        if in_extension:
            at += 1 + first
            in_extension = first > 0
        elif first == ord("!"):
            at += 2
            in_extension = True
        elif first in b",;":
            return
        else:
            at += 1
    raise StructureError(f"more than {MAX_GIF_BLOCKS:,} blocks before the pixels")


def _check_tiff(content: bytes) -> None:
    order = "<" if content.startswith(b"II") else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    offset, count, entry = (order + code for code in (("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")))
    (at,) = struct.unpack_from(offset, content, 8 if big else 4)
    (entries,) = struct.unpack_from(count, content, at)
    if entries > MAX_TIFF_ENTRIES:
        raise StructureError(f"more than {MAX_TIFF_ENTRIES:,} tags")
    at += struct.calcsize(count)
    for tag, _, values, _ in struct.iter_unpack(entry, content[at : at + entries * struct.calcsize(entry)]):
        if tag in _TIFF_PIECE_TAGS and values > MAX_TIFF_PIECES:
            raise StructureError(f"more than {MAX_TIFF_PIECES:,} strips or tiles")


def _without_bmp_trailer(content: bytes) -> bytes:
    """Pillow reads run-length encoding until the picture is full, or the file ends."""
    (pixels_at, header_size) = struct.unpack_from("<II", content, 10)
    if header_size < 40 or struct.unpack_from("<I", content, 30)[0] not in (1, 2):
        return content
    (size,) = struct.unpack_from("<I", content, 34)  # 0: up to the end of the file.
    picture = content[: pixels_at + size] if size else content
    if len(picture) - pixels_at > MAX_BMP_RLE_BYTES:
        raise StructureError(f"more than {MAX_BMP_RLE_BYTES:,} bytes of run-length encoding")
    return picture
