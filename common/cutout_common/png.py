"""PNG files of one bit a pixel, whose rows without anything cost next to nothing."""

import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

_ADLER_MODULUS = 65521


def write_png(height: int, width: int, top: int, rows: NDArray[np.uint8]) -> bytes:
    """A greyscale file, black but for some rows.

    Args:
        height: Of the picture, in pixels.
        width: Likewise.
        top: The first of the rows.
        rows: (n, 1 + ceil(width / 8)) packed bits, the leftmost pixel in the most significant one, each row behind its
            filter's number.
    """
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    above, below = (count * rows.shape[1] for count in (top, height - top - rows.shape[0]))
    chunks = ((b"IHDR", header), (b"IDAT", _compressed(above, np.ascontiguousarray(rows), below)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _compressed(above: int, rows: NDArray[np.uint8], below: int) -> bytes:
    """A zlib stream (RFC 1950) of zeros, the rows' bytes, and zeros."""
    # Of zeros alone, both sums of Adler-32 are known without adding them up.
    checksum = zlib.adler32(rows.data, above % _ADLER_MODULUS << 16 | 1)
    high, low = checksum >> 16, checksum & 0xFFFF
    checksum = (high + below * low) % _ADLER_MODULUS << 16 | low
    ready = (*_zeros(above), _deflated(rows.tobytes()), *_zeros(below))
    # The last block is empty: Huffman codes of the standard's own, and the end.
    return b"\x78\x01" + b"".join(ready) + b"\x03\x00" + struct.pack(">I", checksum)


def _zeros(count: int) -> Iterator[bytes]:
    return (_deflated_zeros(power) for power in range(count.bit_length()) if count >> power & 1)


@cache
def _deflated_zeros(power: int) -> bytes:
    """2 ** power of them: a thousandth of that, kept."""
    return _deflated(bytes(1 << power))


def _deflated(data: bytes) -> bytes:
    """Blocks that end at a byte's boundary and refer to nothing before them, so that they can be put in a row."""
    # Masks are long runs: higher levels take more time and save little.
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)
