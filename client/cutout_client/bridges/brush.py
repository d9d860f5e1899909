"""Masks as Label Studio's brush strokes: a run-length code of RGBA values, packed bit by bit.

The code is that of thi.ng's `rle-pack`, from which Label Studio took it. It has a header (32 bits of how many values
there are, 5 bits of their size, four times 4 bits of how long a run's length is written), then for each run a set bit,
2 bits that choose one of those four, the length and the value.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CHANNELS = 4
WORD_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
_LONGEST = 1 << LENGTH_BITS[-1]


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (H, W) as bytes; inside all channels are 255."""
    values = mask.ravel()
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    ends = np.append(edges, values.size)
    header = f"{values.size * CHANNELS:032b}{WORD_BITS - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in LENGTH_BITS)
    runs = zip(np.diff(ends, prepend=0) * CHANNELS, values[ends - 1], strict=True)
    code = header + "".join(part for length, inside in runs for part in _run(int(length), inside=bool(inside)))
    code += "0" * (-len(code) % 8)
    return list(int(code, 2).to_bytes(len(code) // 8))


def _run(length: int, *, inside: bool) -> Iterator[str]:
    value = f"{255 if inside else 0:0{WORD_BITS}b}"
    while length:
        part = min(length, _LONGEST)
        choice = next(index for index, bits in enumerate(LENGTH_BITS) if part <= 1 << bits)
        yield f"1{choice:02b}{part - 1:0{LENGTH_BITS[choice]}b}{value}"
        length -= part
