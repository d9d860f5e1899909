"""A JPEG file's markers: how many pieces it has, and where its picture ends, whatever stands behind it.

Phones put films, depth maps and second pictures behind the end marker, or leave the marker out, against ITU-T T.81
(annex B). Decoders follow what stands there to different lengths; what is found here ends with the picture.
"""

import struct
from collections.abc import Mapping

import numpy as np

# Generous beside what real files have: an ICC profile takes at most 255 segments, progressive pictures about 10 scans.
MAX_SEGMENTS = 10_000
MAX_SCANS = 100
# Each is joined to those before it, or taken apart, by who reads the file. Cameras write one, editors some.
MAX_METADATA = 64

_END = b"\xff\xd9"
_SCAN = 0xDA
_EXIF, _PHOTOSHOP = b"\xe1Exif\0\0", b"\xedPhotoshop 3.0\0"  # Marker, and what stands behind the segment's length.
_PROGRESSIVE = frozenset((0xC2, 0xCA))
_FRAMES = _PROGRESSIVE | {0xC0, 0xC1, 0xC9}  # Which libjpeg reads.
# What may stand between two scans: tables, restart intervals, application data, comments.
_BETWEEN_SCANS = frozenset((0xC4, 0xCC, _SCAN, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))
# 0xFF is part of the pixels before these: stuffing, restart markers, and 0xFF itself, which fills.
_IS_MARKER = np.ones(256, np.bool_)
_IS_MARKER[[0, *range(0xD0, 0xD8), 0xFF]] = False
_ALL_COEFFICIENTS = (1 << 64) - 1
_FIRST_WINDOW, _LAST_WINDOW = 1 << 12, 1 << 20


class StructureError(ValueError):
    """A file is made of more pieces than a picture has any use for; the text says of which."""


def ended(content: bytes) -> bytes:
    """The file, with an end marker where its picture ends if that is all that the picture lacks.

    Whether the data between two markers is whole, a decoder has to tell.

    Args:
        content: A JPEG file; what stands behind the picture is not looked at.

    Raises:
        StructureError: There are more segments or scans than any real picture has.
        struct.error: The file ends before its pixels.
        IndexError: Likewise.
    """
    at, components, is_progressive = _first_scan(content)
    coefficients: dict[int, int] = {}  # By component: one bit for each that came in full precision.
    scans = 0
    complete_at = 0
    for _ in range(MAX_SEGMENTS):
        marker = content[at + 1] if at + 4 < len(content) else 0
        if content[at : at + 2] == _END:
            return content
        if not complete_at and _is_complete(coefficients, components):
            complete_at = at
        # Behind a sequential picture decoders expect nothing else; progressive ones they would paint again.
        if marker not in _BETWEEN_SCANS or (complete_at and not is_progressive):
            return content[:complete_at] + _END if complete_at else content
        if marker == _SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise StructureError(f"more than {MAX_SCANS} scans")
            _note_scan(content, at, coefficients)
        at = _next_marker(content, _behind(content, at))
    raise StructureError(f"more than {MAX_SEGMENTS:,} segments")


def _first_scan(content: bytes) -> tuple[int, int, bool]:
    """Where it stands, the number of the picture's components, and whether they come progressively."""
    at, components, is_progressive = 2, 0, False
    metadata = 0
    for _ in range(MAX_SEGMENTS):
        marker = content[at + 1] if content[at] == 0xFF else 0
        metadata += (content[at + 1 : at + 2] + content[at + 4 : at + 18]).startswith((_EXIF, _PHOTOSHOP))
        if metadata > MAX_METADATA:
            raise StructureError(f"more than {MAX_METADATA} segments of Exif and Photoshop data")
        if marker == _SCAN:
            return at, components, is_progressive
        if marker in _FRAMES:
            components, is_progressive = content[at + 9], marker in _PROGRESSIVE
        has_length = 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= 0xD9
        at = _behind(content, at) if has_length else at + 1
    raise StructureError(f"more than {MAX_SEGMENTS:,} segments before the pixels")


def _note_scan(content: bytes, at: int, coefficients: dict[int, int]) -> None:
    selectors = at + 5
    behind = selectors + 2 * content[at + 4]
    first, last, precision = content[behind : behind + 3]
    if precision & 15 == 0:
        for component in content[selectors:behind:2]:
            coefficients[component] = coefficients.get(component, 0) | (2 << last) - (1 << first)


def _is_complete(coefficients: Mapping[int, int], components: int) -> bool:
    return len(coefficients) == components and all(bits == _ALL_COEFFICIENTS for bits in coefficients.values())


def _behind(content: bytes, at: int) -> int:
    """Where what follows a segment stands."""
    size: int = struct.unpack_from(">H", content, at + 2)[0]
    return at + 2 + size


def _next_marker(content: bytes, at: int) -> int:
    """The first place from `at` on where a marker stands; the file's end if there is none."""
    values = np.frombuffer(content, np.uint8)
    window = _FIRST_WINDOW  # Small first, as a marker mostly stands right there or far away.
    while at < len(content):
        piece = values[at : at + window + 1]
        found = np.flatnonzero(piece[:-1] == 0xFF)  # Lets other threads run.
        found = found[_IS_MARKER[piece[found + 1]]]
        if found.size:
            return at + int(found[0])
        at += window
        window = min(2 * window, _LAST_WINDOW)
    return len(content)
