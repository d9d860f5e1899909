"""Large RGB PNGs a band of rows at a time, in the memory of their pixels alone.

Pillow decodes a file whole, with four bytes for each pixel. A PNG's rows depend on the row above alone (PNG
specification, section 9), so that a band of them with the last row before it is a PNG of its own.
"""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from cutout_server.types import RgbImage
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BAND_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 256 * 1024  # Given to zlib, which copies what it does not use at once.


def decode_bands(content: bytes, width: int, height: int) -> RgbImage:
    """The pixels of an 8-bit RGB file without transparency and interlacing.

    Args:
        content: The file.
        width: From its header.
        height: Likewise.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        ValueError: The file is damaged.
    """
    stored = np.empty((height, width, 3), np.uint8)
    stride = 1 + 3 * width  # A row begins with its filter.
    rows = max(1, _BAND_BYTES // stride)
    inflated = _Inflated(content)
    above = bytes(stride)  # What is above the first row counts as zeros.
    for top in range(0, height, rows):
        count = min(rows, height - top)
        stored[top : top + count] = _band(above, inflated.read(count * stride), width)[1:]
        above = b"\0" + stored[top + count - 1].tobytes()
    return stored


class _Inflated:
    """The filtered rows of a file, as many at a time as are asked for."""

    def __init__(self, content: bytes) -> None:
        self._pieces = _data(content)
        self._inflater = zlib.decompressobj()
        self._waiting: bytes | memoryview = b""

    def read(self, size: int) -> bytes:
        """Raises ValueError when so many bytes are not there."""
        read = bytearray()
        try:
            while len(read) < size:
                if not self._waiting:
                    self._waiting = next(self._pieces)
                read += self._inflater.decompress(self._waiting, size - len(read))
                self._waiting = self._inflater.unconsumed_tail
        except (StopIteration, zlib.error, struct.error) as error:
            raise ValueError("the picture's data is damaged or ends too early") from error
        return bytes(read)


def _data(content: bytes) -> Iterator[memoryview]:
    """What the IDAT chunks hold, in pieces."""
    view, at = memoryview(content), len(_SIGNATURE)
    while True:
        length, kind = struct.unpack_from(">I4s", content, at)
        body, end = view[at + 8 : at + 8 + length], at + 12 + length
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            if zlib.crc32(body, zlib.crc32(kind)) != struct.unpack_from(">I", content, end - 4)[0]:
                raise zlib.error("wrong checksum")
            for start in range(0, length, _PIECE_BYTES):
                yield body[start : start + _PIECE_BYTES]
        at = end


def _band(above: bytes, filtered: bytes, width: int) -> RgbImage:
    rows = len(filtered) // len(above) + 1
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(above + filtered, 0)),
        (b"IEND", b""),
    )
    file = _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        for kind, body in chunks
    )
    try:
        return np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))
    except (OSError, SyntaxError) as error:
        raise ValueError("a row of the picture is damaged") from error
