"""What a message costs to parse, bounded before it is parsed.

Protobuf makes an object of each message within a message, though two bytes are enough to say that there is one: tens
of nanoseconds and twenty times the memory, all in one go, during which nothing else runs. Long bytes and texts cost
next to nothing.
"""

from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

# Every request that can be answered has fewer: the longest name 65,536 points.
MAX_FIELDS = 131_072
# What is shorter is parsed in a few milliseconds, whatever is in it.
_CHEAP_BYTES = 64 * 1024
# A message of plain numbers, as a point is, is not looked into unless it is longer.
_SMALL_BYTES = 4096
# So many bytes of a packed list of numbers cost as much as a field.
_PACKED_BYTES = 8

# https://protobuf.dev/programming-guides/encoding/#structure
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
# The bit of a byte of a number that says that it goes on, and the most bytes that one has.
_MORE, _VARINT_BYTES = 0x80, 10
_NO_MESSAGE = (None, 0)
_OPAQUE = {FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING}


class _Fields(NamedTuple):
    """Of a type of messages, by their numbers.

    Attributes:
        messages: Fields that are messages, with the bytes beyond which one is looked into.
        packed: Fields that are lists of numbers.
    """

    messages: dict[int, tuple[Descriptor, int]]
    packed: frozenset[int]


def has_too_many_fields(data: bytes, message: Descriptor) -> bool:
    """Whether a message of this type has more than MAX_FIELDS fields, counting those of the messages in it.

    It takes some 40 ms at most. Bytes that are no message end the count; whoever parses them will tell.
    """
    if len(data) <= _CHEAP_BYTES:
        return False
    try:
        return _left(data, message) < 0
    except IndexError:
        return False


def _left(data: bytes, message: Descriptor) -> int:
    """How many more fields there may be; below 0 as soon as there are too many."""
    left = MAX_FIELDS
    unread = [(0, len(data), message)]
    while unread:
        at, end, inside = unread.pop()
        messages, packed = _fields(inside)
        while at < end and left >= 0:
            left -= 1
            tag, at = _varint(data, at)
            form = tag & 7
            if form == _VARINT:
                _, at = _varint(data, at)
            elif form == _LENGTH:
                length, at = _varint(data, at)
                field, small = messages.get(tag >> 3, _NO_MESSAGE)
                if field is not None and length > small:
                    unread.append((at, min(at + length, end), field))
                elif tag >> 3 in packed:
                    left -= length // _PACKED_BYTES
                at += length
            else:
                at += _FIXED_BYTES.get(form, 0)  # The ends of a group are nothing but tags.
    return left


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends.

    Raises:
        IndexError: It does not end where it must.
    """
    byte = data[at]
    if byte < _MORE:
        return byte, at + 1
    value = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        value |= (byte & ~_MORE) << (7 * place)
        if byte < _MORE:
            return value, at + place + 1
    raise IndexError


@cache
def _fields(message: Descriptor) -> _Fields:
    return _Fields(
        {
            field.number: (field.message_type, _SMALL_BYTES if _is_plain(field.message_type) else 0)
            for field in message.fields
            if field.message_type is not None
        },
        frozenset(field.number for field in message.fields if field.is_repeated and _is_number(field)),
    )


def _is_plain(message: Descriptor) -> bool:
    return all(_is_number(field) and not field.is_repeated for field in message.fields)


def _is_number(field: FieldDescriptor) -> bool:
    return field.message_type is None and field.type not in _OPAQUE
