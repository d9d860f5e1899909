"""Large RGB PNGs a band of rows at a time, in the memory of their pixels alone.

Pillow decodes a file whole, with four bytes for each pixel. A PNG's rows depend on the row above alone (PNG
specification, section 9), so that a band of them with the last row before it is a PNG of its own.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from cutout_common.formats import PNG_SIGNATURE
from cutout_server.imaging.structure import MAX_PNG_CHUNKS
from cutout_server.types import RgbImage
from PIL import Image

_BAND_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 256 * 1024  # Given to zlib, which copies what it does not use at once.


def decode_bands(file: BinaryIO, width: int, height: int) -> RgbImage:
    """The pixels of an 8-bit RGB file without transparency and interlacing.

    Args:
        file: At its beginning; is read as its bands are needed.
        width: From its header.
        height: Likewise.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged.
    """
    stored = np.empty((height, width, 3), np.uint8)
    stride = 1 + 3 * width  # A row begins with its filter.
    rows = max(1, _BAND_BYTES // stride)
    inflated = _Inflated(file)
    above = bytes(stride)  # What is above the first row counts as zeros.
    for top in range(0, height, rows):
        count = min(rows, height - top)
        stored[top : top + count] = _band(above, inflated.read(count * stride), width)[1:]
        above = b"\0" + stored[top + count - 1].tobytes()
    return stored


class _Inflated:
    """The filtered rows of a file, as many at a time as are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._pieces = _data(file)
        self._inflater = zlib.decompressobj()
        self._waiting = b""

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


def _data(file: BinaryIO) -> Iterator[bytes]:
    """What the IDAT chunks hold, in pieces."""
    file.seek(len(PNG_SIGNATURE))
    for _ in range(MAX_PNG_CHUNKS):
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return
        if kind != b"IDAT":
            file.seek(length + 4, os.SEEK_CUR)
            continue
        checksum = zlib.crc32(kind)
        for start in range(0, max(1, length), _PIECE_BYTES):
            piece = file.read(min(_PIECE_BYTES, length - start))
            checksum = zlib.crc32(piece, checksum)
            if start + _PIECE_BYTES >= length and struct.unpack(">I", file.read(4))[0] != checksum:
                raise zlib.error("wrong checksum")
            yield piece


def _band(above: bytes, filtered: bytes, width: int) -> RgbImage:
    rows = len(filtered) // len(above) + 1
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(above + filtered, 0)),
        (b"IEND", b""),
    )
    file = PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        for kind, body in chunks
    )
    try:
        return np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))
    except (OSError, SyntaxError) as error:
        raise ValueError("a row of the picture is damaged") from error
