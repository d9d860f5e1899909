"""Text as the fonts at hand can write it: in its own script, else in Latin letters, never in empty squares."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter

from anyascii import anyascii
from PIL import ImageDraw

from cutout_common.fonts import BUILT_IN, Face, Font, faces, is_joiner, is_right_to_left

_Piece = tuple[Face, str]


@dataclass(frozen=True)
class Line:
    """A line of text, ready to be drawn.

    Attributes:
        runs: From left to right: a font, and what it writes.
        width: Columns.
        ascent: Rows above the baseline.
        descent: Rows below.
    """

    runs: tuple[tuple[Font, str], ...]
    width: float
    ascent: float
    descent: float

    def draw(self, pen: ImageDraw.ImageDraw, left: float, baseline: float, ink: str) -> None:
        """Draws it."""
        for font, text in self.runs:
            pen.text((left, baseline), text, ink, font, anchor="ls")
            left += font.getlength(text)


@lru_cache(maxsize=4096)
def set_line(text: str, size: float) -> Line:
    """Sets a line.

    Args:
        text: Words, separated by spaces.
        size: Of the letters, in pixels.
    """
    runs = tuple((face.at(size), piece) for face, piece in spelt(text))
    # Of letters that reach up and down, so that the lines of ordinary labels have one height.
    boxes = [BUILT_IN.at(size).getbbox("Hg|", anchor="ls"), *(font.getbbox(piece, anchor="ls") for font, piece in runs)]
    width = sum(font.getlength(piece) for font, piece in runs)
    return Line(runs, width, -min(box[1] for box in boxes), max(box[3] for box in boxes))


def spelt(text: str) -> tuple[_Piece, ...]:
    """The text in pieces that one font each can write, from left to right as they are seen."""
    line: list[_Piece] = []
    for word in _cleaned(text).split():
        for index, (face, piece) in enumerate(_spell(word)):
            gap = " " if line and not index else ""
            if line and line[-1][0] == face:
                line[-1] = (face, line[-1][1] + gap + piece)
            else:
                line.extend([(BUILT_IN, gap)] * bool(gap) + [(face, piece)])
    return tuple(_as_seen(line))


def _cleaned(text: str) -> str:
    """Without what is not seen, but for joiners."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(c for c in composed if is_joiner(c) or not (_is_control(c) or _is_variation(c)))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf"} and not character.isspace()


def _is_variation(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _spell(word: str) -> list[_Piece]:
    """In one font if there is one for all of it, as letters of several do not join."""
    for parts in ([word], list(_clusters(word))):
        pieces = [(face, part) for part in parts if (face := _face_of(part))]
        if len(pieces) == len(parts):
            return pieces
    return [(BUILT_IN, _in_latin(word))]


def _face_of(text: str) -> Face | None:
    if BUILT_IN.writes(text):
        return BUILT_IN
    return next((face for face in faces() if face.writes(text)), None)


def _clusters(word: str) -> Iterator[str]:
    """Letters with the marks on them, and whatever is joined to them."""
    cluster = ""
    for character in word:
        belongs = unicodedata.category(character).startswith("M") or is_joiner(character) or is_joiner(cluster[-1:])
        if cluster and not belongs:
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _in_latin(text: str) -> str:
    """How it sounds, or what it is called: "koshka", ":cat:"; its numbers in Unicode where neither is known."""
    return anyascii(text).strip() or "".join(f"U+{ord(character):04X}" for character in text)


def _as_seen(line: Sequence[_Piece]) -> Iterator[_Piece]:
    """Puts pieces into the order of the text's direction and of their own; fonts order what is inside of a piece."""
    base = is_right_to_left("".join(piece for _, piece in line))
    leftward = [base if piece == " " else is_right_to_left(piece) for _, piece in line]
    for index in range(1, len(line) - 1):
        if line[index][1] == " " and leftward[index - 1] == leftward[index + 1]:
            leftward[index] = leftward[index - 1]
    groups = groupby(zip(leftward, line, strict=True), key=itemgetter(0))
    turned = [list(group)[:: -1 if way else 1] for way, group in groups]
    for group in turned[:: -1 if base else 1]:
        for _, piece in group:
            yield piece
