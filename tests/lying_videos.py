"""Video files whose containers say what is not so."""

import struct
from collections.abc import Mapping

_HOLDING = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")


def with_boxes(mp4: bytes, bodies: Mapping[bytes, bytes]) -> bytes:
    """An MP4 with other bodies of these boxes, wherever they are."""
    made, at = b"", 0
    while at < len(mp4):
        size, kind = struct.unpack(">I4s", mp4[at : at + 8])
        body = bodies.get(kind, mp4[at + 8 : at + size])
        body = with_boxes(body, bodies) if kind in _HOLDING else body
        made += struct.pack(">I4s", len(body) + 8, kind) + body
        at += size
    return made


def with_elements(matroska: bytes, values: Mapping[str, int | float]) -> bytes:
    """A Matroska file with other values of elements, named by their ids in hexadecimal; their sizes stay."""
    made = bytearray(matroska)
    for name, value in values.items():
        element = bytes.fromhex(name)
        at = made.index(element) + len(element)
        size = made[at] & 0x7F
        said = struct.pack(">d", value) if isinstance(value, float) else value.to_bytes(size, "big")
        made[at + 1 : at + 1 + size] = said
    return bytes(made)
