"""What PaliGemma writes when it is asked to segment, and how that is read.

An object is `<locDDDD>` four times (y_min, x_min, y_max, x_max), `<segDDD>` sixteen times, and perhaps its name;
objects stand apart by " ; ". The grammar is that of `extract_objs` in the demonstration by PaliGemma's authors
(https://huggingface.co/spaces/big-vision/paligemma, paligemma_parse.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LOCATIONS = 1024  # Along each side of the picture.

_LOCATION = re.compile(r"<loc(\d{4})>")
_CODE = re.compile(r"<seg(\d{3})>")
_SPACE = re.compile(r"[\s\u2581]+")  # U+2581 stands for a space in the pieces of a tokenizer.
_OBJECT = re.compile("L{4} *(S{16})?")


@dataclass(frozen=True)
class Outline:
    """An object as the model wrote it.

    Attributes:
        locations: (y_min, x_min, y_max, x_max) in 1024ths of the picture's sides.
        codes: 16 tokens of the mask decoder, in [0, 128).
        start: Index of the first of the four pieces that hold the locations.
    """

    locations: tuple[int, int, int, int]
    codes: tuple[int, ...]
    start: int


def read_answer(pieces: Sequence[str]) -> list[Outline]:
    """The objects that are whole and whose boxes have an area; whatever else stands there is passed over.

    Args:
        pieces: Tokens as the tokenizer spells them.
    """
    numbers = [_number(piece) for piece in pieces]
    # One letter for each piece, so that places in this text are indices of pieces.
    kinds = "".join(kind for kind, _ in numbers)
    outlines = []
    for match in _OBJECT.finditer(kinds):
        if match[1] is None:
            continue  # A box without a mask.
        start, first_code = match.start(), match.start(1)
        y_min, x_min, y_max, x_max = (number for _, number in numbers[start : start + 4])
        if y_min < y_max and x_min < x_max:
            codes = tuple(number for _, number in numbers[first_code : first_code + 16])
            outlines.append(Outline((y_min, x_min, y_max, x_max), codes, start))
    return outlines


def _number(piece: str) -> tuple[str, int]:
    """(kind, value) of a piece."""
    for kind, pattern, end in (("L", _LOCATION, LOCATIONS), ("S", _CODE, 128)):
        if (match := pattern.fullmatch(piece)) and int(match[1]) < end:
            return kind, int(match[1])
    return (" " if _SPACE.fullmatch(piece) else "x"), 0
