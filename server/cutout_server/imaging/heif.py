"""What decoding an HEIF or AVIF file takes, told from its boxes (ISO/IEC 23008-12, 14496-12) before a decoder is asked.

A picture of a few pixels may be made of a grid of large ones, of the same one a thousand times, or of AV1 frames that
are larger than the file says; a few kilobytes hold hundreds of megapixels of one colour.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cutout_common.jpeg import StructureError
from cutout_server.imaging import av1

MAX_BOXES = 10_000
MAX_EXTENTS = 10_000
_MAX_DEPTH = 4  # A grid of pictures with alpha takes three.
_ITEM_PIXELS = 64 * 64  # What a part costs however small it is.
_CODED = frozenset((b"hvc1", b"av01"))
_DERIVED = frozenset((b"grid", b"iden"))


def as_still(content: bytes) -> bytes:
    """The file, calling itself a still picture if it called itself a sequence: decoders then read its first picture."""
    return content[:8] + b"avif" + content[12:] if content[8:12] == b"avis" else content


def coded_pixels(content: bytes) -> int:
    """How many pixels a decoder is going to make for the primary picture, its tiles and its alpha.

    Raises:
        StructureError: There are more boxes than any real picture has, or parts of unknown kind or size.
        IndexError: The file ends inside a box.
    """
    items = _Items()
    items.read(_only(b"meta", _up_to_junk(_Span(content, 0, len(content)))))
    return _cost(content, items, items.primary, 0, {})


@dataclass
class _Span:
    """A part of the file, read from its beginning on."""

    content: bytes
    at: int
    end: int

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            IndexError: There are not so many.
        """
        if self.end - self.at < size:
            raise IndexError("a box ends too early")
        self.at += size
        return self.content[self.at - size : self.at]

    def number(self, size: int) -> int:
        """The next bytes as an unsigned number."""
        return int.from_bytes(self.take(size), "big")

    def version(self) -> int:
        """That of a box which has one; its flags are skipped."""
        return self.number(4) >> 24


def _boxes(span: _Span) -> Iterator[tuple[bytes, _Span]]:
    for _ in range(MAX_BOXES):
        if span.at >= span.end:
            return
        start = span.at
        size, kind = span.number(4), span.take(4)
        if size == 1:
            size = span.number(8)
        end = span.end if size == 0 else start + size
        if not span.at <= end <= span.end:
            raise IndexError("a box ends too early")
        yield kind, _Span(span.content, span.at, end)
        span.at = end
    raise StructureError(f"more than {MAX_BOXES:,} boxes")


def _up_to_junk(span: _Span) -> Iterator[tuple[bytes, _Span]]:
    """What stands behind a file's boxes is no part of the picture."""
    with contextlib.suppress(IndexError):
        yield from _boxes(span)


def _only(kind: bytes, boxes: Iterable[tuple[bytes, _Span]]) -> _Span:
    """The one box of a kind: decoders differ in which of two they believe."""
    found = [body for name, body in boxes if name == kind]
    if len(found) != 1:
        raise StructureError(f"{len(found)} {kind.decode()!r} boxes where there is one")
    return found[0]


@dataclass
class _Items:
    """What the `meta` box says of the pictures in the file, by their ids.

    Attributes:
        primary: The one to be shown.
        kinds: How each is coded.
        pixels: How many each shows.
        parts: What each is made of.
        extras: What goes with each: alpha, depth.
        extents: Where each one's data is: offset and length.
    """

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    pixels: dict[int, int] = field(default_factory=dict)
    parts: dict[int, list[int]] = field(default_factory=dict)
    extras: dict[int, list[int]] = field(default_factory=dict)
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _data_at: int = 0  # Where the `idat` box begins.

    def read(self, meta: _Span) -> None:
        """Fills them in."""
        meta.version()
        boxes = list(_boxes(meta))
        kinds = {kind for kind, _ in boxes}
        if b"idat" in kinds:
            self._data_at = _only(b"idat", boxes).at
        self._read_primary(_only(b"pitm", boxes))
        self._read_kinds(_only(b"iinf", boxes))
        self._read_properties(_only(b"iprp", boxes))
        self._read_extents(_only(b"iloc", boxes))
        if b"iref" in kinds:
            self._read_references(_only(b"iref", boxes))

    def _read_primary(self, box: _Span) -> None:
        self.primary = box.number(4 if box.version() else 2)

    def _read_kinds(self, box: _Span) -> None:
        box.take(4 if box.version() else 2)  # Their number.
        for _, entry in _boxes(box):
            version = entry.version()
            if version >= 2:
                item = entry.number(4 if version > 2 else 2)
                entry.take(2)
                self.kinds[item] = entry.take(4)

    def _read_properties(self, box: _Span) -> None:
        boxes = list(_boxes(box))
        sizes = {}
        for index, (kind, body) in enumerate(_boxes(_only(b"ipco", boxes)), start=1):
            if kind == b"ispe":
                body.version()
                sizes[index] = body.number(4) * body.number(4)
        for associations in (body for kind, body in boxes if kind == b"ipma"):
            flags = associations.number(4)
            for _ in range(associations.number(4)):
                item = associations.number(4 if flags >> 24 else 2)
                for _ in range(associations.number(1)):
                    index = associations.number(2) & 0x7FFF if flags & 1 else associations.number(1) & 0x7F
                    self.pixels[item] = max(self.pixels.get(item, 0), sizes.get(index, 0))

    def _read_references(self, box: _Span) -> None:
        size = 4 if box.version() else 2
        for kind, body in _boxes(box):
            source = body.number(size)
            for _ in range(body.number(2)):
                target = body.number(size)
                if kind == b"dimg":
                    self.parts.setdefault(source, []).append(target)
                elif kind == b"auxl":
                    self.extras.setdefault(target, []).append(source)

    def _read_extents(self, box: _Span) -> None:
        version, sizes = box.version(), box.number(2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        left = MAX_EXTENTS
        for _ in range(box.number(4 if version > 1 else 2)):
            item = box.number(4 if version > 1 else 2)
            method = box.number(2) & 15 if version else 0
            box.take(2)
            base = box.number(base_size) + (self._data_at if method else 0)
            for _ in range(box.number(2)):
                left -= 1
                if left < 0:
                    raise StructureError(f"more than {MAX_EXTENTS:,} extents")
                box.take(index_size if version else 0)
                extent = base + box.number(offset_size), box.number(length_size)
                self.extents.setdefault(item, []).append(extent)


def _cost(content: bytes, items: _Items, item: int, depth: int, known: dict[int, int]) -> int:
    if item in known:
        return known[item]
    kind = items.kinds.get(item, b"")
    if depth > _MAX_DEPTH or kind not in _CODED | _DERIVED or item not in items.pixels:
        raise StructureError("parts of a kind that is not supported")
    pixels = items.pixels[item]
    if kind == b"av01":
        extents = items.extents.get(item, [])
        data = b"".join(content[at : at + length if length else None] for at, length in extents)
        pixels = max(pixels, av1.largest_frame(data))
    extras = [extra for extra in items.extras.get(item, []) if items.kinds.get(extra) in _CODED | _DERIVED]
    inside = (_cost(content, items, part, depth + 1, known) for part in (*items.parts.get(item, []), *extras))
    known[item] = pixels + _ITEM_PIXELS + sum(inside)
    return known[item]
