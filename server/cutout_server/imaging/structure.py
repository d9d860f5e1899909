"""Looks at a file's skeleton before any decoder does, so that a small file cannot cost much.

Decoders bound what they allocate, but not how long they follow a file that is made of nothing but tiny segments,
how often a progressive JPEG paints the same pixels, or what is reserved before its size is known. The walks here are
linear in the number of segments and stop at the first one too many.
"""

import struct
from collections.abc import Callable, Iterator

import numpy as np

# Generous beside what real files have: a 100-megapixel PNG in 8 KiB chunks has about 40,000 of them, an ICC profile
# takes at most 255 JPEG segments, progressive JPEGs have about 10 scans, TIFF directories some dozens of entries.
MAX_PNG_CHUNKS = 100_000
MAX_JPEG_SEGMENTS = 10_000
MAX_JPEG_SCANS = 100
MAX_GIF_BLOCKS = 10_000
MAX_TIFF_ENTRIES = 4_096
MAX_TIFF_PIECES = 100_000
# Pillow reads run-length encoded BMP in Python, about 10 MB/s.
MAX_BMP_RLE_BYTES = 8 * 1024 * 1024

_TIFF_PIECE_TAGS = frozenset((273, 279, 324, 325))  # StripOffsets, StripByteCounts, TileOffsets, TileByteCounts

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class StructureError(ValueError):
    """The file is made of more pieces than a picture has any use for; the text says of which."""


def identify(content: bytes) -> str:
    """Pillow's name of the format that the first bytes tell, or an empty string."""
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith(PNG_SIGNATURE):
        return "PNG"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    return "BMP" if content.startswith(b"BM") else ""


def check(content: bytes, file_format: str) -> None:
    """Walks the file's skeleton.

    Args:
        content: The file.
        file_format: What `identify` said of it.

    Raises:
        StructureError: There are more pieces than any real picture has.
        struct.error: The file ends inside a header.
        IndexError: Likewise.
    """
    checker = _CHECKS.get(file_format)
    if checker:
        checker(content)


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
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind, at + 8, size
        at += 12 + size


def _check_png(content: bytes) -> None:
    if sum(1 for _ in zip(range(MAX_PNG_CHUNKS + 1), _png_chunks(content), strict=False)) > MAX_PNG_CHUNKS:
        raise StructureError(f"more than {MAX_PNG_CHUNKS:,} chunks")


def _check_jpeg(content: bytes) -> None:
    # Inside a scan 0xFF is followed by 0 or by a restart marker, so that this finds scans, and those of thumbnails.
    if _count_pairs(content, 0xFF, 0xDA) > MAX_JPEG_SCANS:
        raise StructureError(f"more than {MAX_JPEG_SCANS} scans")
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        marker = content[at + 1] if content[at] == 0xFF else 0
        if marker == 0xDA:
            return
        has_length = 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= 0xD9
        at += 2 + struct.unpack_from(">H", content, at + 2)[0] if has_length else 1
    raise StructureError(f"more than {MAX_JPEG_SEGMENTS:,} segments before the pixels")


def _count_pairs(content: bytes, first: int, second: int) -> int:
    """How often two different bytes stand side by side: `content.count` in a tenth of its time, threads let run."""
    pair = first | second << 8
    counts = (len(content) // 2, (len(content) - 1) // 2)
    pairs = (np.frombuffer(content, "<u2", count, offset) for offset, count in enumerate(counts) if count > 0)
    return sum(int(np.count_nonzero(values == pair)) for values in pairs)


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


def _check_bmp(content: bytes) -> None:
    (header_size,) = struct.unpack_from("<I", content, 14)
    if header_size >= 40 and len(content) > MAX_BMP_RLE_BYTES and struct.unpack_from("<I", content, 30)[0] in (1, 2):
        raise StructureError(f"more than {MAX_BMP_RLE_BYTES:,} bytes of run-length encoding")


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "BMP": _check_bmp,
    "GIF": _check_gif,
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "TIFF": _check_tiff,
}
