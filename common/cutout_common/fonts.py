"""Which font can write what: Pillow's own, those of the extra `fonts`, and the system's."""

import importlib.util
import os
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont, features

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

# Of the extra: Google's Noto, unmodified.
_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
# Families that cover whole scripts, by the names of their files; the first that can write a word does.
_FAMILIES = (
    *("NotoSans-", "NotoSans[", "DejaVuSans.", "segoeui.", "Arial Unicode", "NotoSans", "NotoEmoji", "FreeSans."),
    *("NotoKufi", "Lohit", "Nirmala", "LeelawUI.", "Garuda.", "Loma.", "WenQuanYi", "wqy", "DroidSansFallback"),
    *("PingFang", "Hiragino", "AppleSDGothicNeo", "msyh.", "YuGoth", "malgun.", "seguiemj.", "seguisym.", "unifont"),
)
_UNWANTED = ("Bold", "Italic", "Oblique", "Condensed", "Mono", "Serif", "Thin", "Light", "Black", "Medium", "Display")
_SUFFIXES = (".ttf", ".otf", ".ttc")
_REGULAR = 400
_PROBE_SIZE = 16
_NOBODYS = "\U0010ffff"  # A noncharacter: no font has a glyph for it.
_RIGHT_TO_LEFT = ("R", "AL")


@dataclass(frozen=True)
class Face:
    """A font at every size.

    Attributes:
        path: Its file; empty for Pillow's own.
    """

    path: str

    @lru_cache(maxsize=256)  # noqa: B019 - there are no more faces than files
    def at(self, size: float) -> Font:
        """The font in pixels."""
        if not self.path:
            return ImageFont.load_default(size)
        return _load(self.path, size, ImageFont.Layout.RAQM if shapes() else ImageFont.Layout.BASIC)

    def writes(self, text: str) -> bool:
        """Whether there is a glyph for every character, and whatever else it takes to write them."""
        return all(self._has(character) for character in text)

    @lru_cache(maxsize=65536)  # noqa: B019 - likewise
    def _has(self, character: str) -> bool:
        if not shapes() and needs_shaping(character):
            return False
        if is_joiner(character):
            return True  # Shaping uses it and draws nothing.
        return _bitmap(self, character) != _bitmap(self, _NOBODYS)


BUILT_IN = Face("")


@cache
def faces() -> tuple[Face, ...]:
    """Every font that was found, Pillow's own first."""
    found = [Face(str(path)) for path in (*_packaged(), *_of_system())]
    return (BUILT_IN, *(face for face in found if _opens(face)))


@cache
def shapes() -> bool:
    """Whether Pillow can join letters, place marks and write from right to left, by libraqm."""
    return bool(features.check("raqm"))


def needs_shaping(character: str) -> bool:
    """Whether a character is written from right to left, changes with its neighbours, or sits on another."""
    return (
        unicodedata.bidirectional(character) in _RIGHT_TO_LEFT
        or unicodedata.category(character).startswith("M")
        or is_joiner(character)
    )


def is_joiner(character: str) -> bool:
    """Whether it only says if its neighbours join."""
    return character in {"\u200c", "\u200d"}


def is_right_to_left(text: str) -> bool:
    """By the first letter that says (Unicode Standard Annex 9, rules P2 and P3)."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((direction for direction in directions if direction in ("L", *_RIGHT_TO_LEFT)), "L") != "L"


def _load(path: str, size: float, layout: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path, size, layout_engine=layout)
    try:
        axes = font.get_variation_axes()
    except OSError:  # It has one weight.
        return font
    font.set_variation_by_axes([_REGULAR if axis["name"] == b"Weight" else axis["default"] or 0 for axis in axes])
    return font


@cache
def _probe(face: Face) -> Font:
    return _load(face.path, _PROBE_SIZE, ImageFont.Layout.BASIC) if face.path else BUILT_IN.at(_PROBE_SIZE)


def _bitmap(face: Face, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _probe(face).getmask(character)
    return mask.size, bytes(mask)


def _opens(face: Face) -> bool:
    try:
        _bitmap(face, _NOBODYS)
    except OSError:  # Damaged, or with bitmaps of one size alone.
        return False
    return True


def _packaged() -> Iterator[Path]:
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield from _known(Path(folder))


def _of_system() -> Iterator[Path]:
    for folder in _system_folders():
        yield from _known(folder)


def _known(folder: Path) -> list[Path]:
    ranked = []
    for parent, _, names in os.walk(folder):
        for name in names:
            rank = next((i for i, family in enumerate(_FAMILIES) if name.startswith(family)), None)
            if rank is not None and name.endswith(_SUFFIXES) and not any(word in name for word in _UNWANTED):
                ranked.append((rank, name, Path(parent, name)))
    return [path for _, _, path in sorted(ranked)]


def _system_folders() -> Iterator[Path]:
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", "C:\\Windows"), "Fonts")
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), Path.home() / "Library/Fonts")
    else:
        yield from (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".local/share/fonts")
