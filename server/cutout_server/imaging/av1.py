"""How large the frames of AV1 data may be, told without decoding it (AV1 Bitstream & Decoding Process, 2019)."""

from collections.abc import Iterator

from cutout_common.jpeg import StructureError

MAX_UNITS = 10_000  # A still picture has a few for each of its tiles.
_SEQUENCE_HEADER = 1
_LONGEST_HEADER = 512  # Bytes: 32 operating points, each of a few.
_TIERED_LEVEL = 7
UNBOUNDED = 1 << 32


def largest_frame(data: bytes) -> int:
    """Pixels of the largest frame that the data's sequence headers allow.

    Raises:
        StructureError: There are more units than any still picture has.
        IndexError: The data ends inside a unit's header.
    """
    return max((_frame(unit) for kind, unit in _units(data) if kind == _SEQUENCE_HEADER), default=0)


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and beginnings of the open bitstream units (section 5.3)."""
    at = 0
    for _ in range(MAX_UNITS):
        if at >= len(data):
            return
        header = data[at]
        at += 1 + (header >> 2 & 1)
        size = len(data) - at
        if header & 2:
            size = 0
            for index in range(8):  # leb128 (section 4.10.5)
                byte = data[at]
                at += 1
                size |= (byte & 0x7F) << 7 * index
                if not byte & 0x80:
                    break
        yield header >> 3 & 15, data[at : at + min(size, _LONGEST_HEADER)]
        at += size
    raise StructureError(f"more than {MAX_UNITS:,} units of AV1 data")


def _frame(header: bytes) -> int:
    """Pixels that one sequence header allows (section 5.5.1)."""
    bits = _Bits(header)
    bits.take(4)  # Profile; whether it is a still picture.
    is_reduced = bits.take(1)
    if is_reduced:
        bits.take(5)
    else:
        if bits.take(1):  # Times of frames, which no still picture needs.
            return UNBOUNDED
        may_wait = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            bits.take(1 if bits.take(5) > _TIERED_LEVEL else 0)
            bits.take(4 if may_wait and bits.take(1) else 0)
    lengths = bits.take(4) + 1, bits.take(4) + 1
    width, height = (bits.take(length) + 1 for length in lengths)
    # Frames have that size, unless their own headers may say another, in as many bits.
    return width * height if is_reduced else 1 << sum(lengths)


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """The next so many as a number.

        Raises:
            IndexError: There are not as many.
        """
        self._left -= count
        if self._left < 0:
            raise IndexError("the header ends too early")
        return self._value >> self._left & (1 << count) - 1
