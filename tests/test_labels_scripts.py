"""Labels in the world's scripts: written in them where a font can, else in Latin letters, never in empty squares."""

import unicodedata
from functools import cache

import numpy as np
import pytest
from cutout_common import fonts, writing
from cutout_common.fonts import BUILT_IN, Face
from cutout_common.labels import Plate, place
from cutout_common.writing import set_line, spelt
from PIL import Image, features

SCRIPTS = {
    "Latin": ("café Łódź", "cafe Lodz"),
    "Cyrillic": ("рыжая кошка", "ryzhaya koshka"),
    "Greek": ("γάτα", "gata"),
    "Arabic": ("قطة", "qth"),
    "Hebrew": ("חתול", "htvl"),
    "Thai": ("แมว", "aemw"),
    "Devanagari": ("बिल्ली", "billi"),
    "Bengali": ("বিড়াল", "bid'al"),
    "Tamil": ("பூனை", "punai"),
    "Chinese": ("橙色的猫", "ChengSeDeMao"),
    "Japanese": ("オレンジの猫", "orenjinoMao"),
    "Korean": ("고양이", "GoYangI"),
    "Armenian": ("կատու", "katow"),
    "Georgian": ("კატა", "k'at'a"),
    "Ethiopic": ("ድመት", "dmet"),
    "Khmer": ("ឆ្មា", "chhma"),
    "emoji": ("🐱👍🏽❤️", ":cat::thumbsup::heart:"),
}
NO_SUCH = "\U0010ffff"
needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason="Pillow finds no libraqm with FriBiDi")


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the extra nor the system has a font."""
    monkeypatch.setattr(writing, "faces", lambda: (BUILT_IN,))
    set_line.cache_clear()
    yield
    set_line.cache_clear()


def text_of(pieces: tuple[tuple[Face, str], ...]) -> str:
    return "".join(text for _, text in pieces)


def is_written(face: Face, text: str) -> bool:
    """Whether no character is drawn as the font draws what it has no glyph for."""
    return all(_has_glyph(face, c) for c in text if unicodedata.category(c)[0] not in "MC")


@cache
def _has_glyph(face: Face, character: str) -> bool:
    font = face.at(20)
    return bytes(font.getmask(character)) != bytes(font.getmask(NO_SUCH))


@needs_raqm
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_written_in_its_own_letters(script: str) -> None:
    """The extra has a font for it, each of whose glyphs is one."""
    label, _ = SCRIPTS[script]
    pieces = spelt(f"{label} 0.93")
    expected = unicodedata.normalize("NFC", label).replace("\ufe0f", "")
    words = {text.strip() for _, text in pieces}
    assert expected in words or text_of(pieces).startswith(expected)
    assert "0.93" in text_of(pieces)
    assert all(is_written(face, text) for face, text in pieces)


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_fonts_labels_are_in_latin_letters(no_fonts: None, script: str) -> None:
    """Every script is told by its sound, emoji by their names."""
    label, latin = SCRIPTS[script]
    pieces = spelt(f"{label} 0.93")
    assert pieces == ((BUILT_IN, f"{latin} 0.93"),)
    assert is_written(*pieces[0])


def test_whatever_comes_is_legible(no_fonts: None) -> None:
    """Every character of Unicode's first planes ends in letters that are there; what is not seen leaves no trace."""
    for code in [*range(0x20, 0x3000), *range(0x3000, 0x32000, 7)]:
        character = chr(code)
        written = text_of(spelt(character))
        assert is_written(BUILT_IN, written)
        assert written or unicodedata.category(character) in {"Cc", "Cf", "Zs", "Zl", "Zp", "Mn"}, hex(code)
    assert text_of(spelt("\ue000")) == "U+E000"
    assert text_of(spelt("𒀀 x")) == "U+12000 x"
    assert text_of(spelt("a\u200b\u202e\ufeffb\ufe0f\x07")) == "ab"
    assert is_written(BUILT_IN, "".join(map(chr, range(0x21, 0x7F))) + "…")


def test_without_shaping_only_what_needs_none_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that ought to join, to carry marks or to run leftward are transliterated rather than spelt wrong."""
    monkeypatch.setattr(fonts, "shapes", lambda: False)
    Face._has.cache_clear()
    try:
        for script in ("Arabic", "Hebrew", "Devanagari", "Khmer"):
            assert text_of(spelt(SCRIPTS[script][0])) == SCRIPTS[script][1]
        for script in ("Cyrillic", "Greek", "Chinese", "Korean"):
            assert text_of(spelt(SCRIPTS[script][0])) == SCRIPTS[script][0]
    finally:
        Face._has.cache_clear()


@needs_raqm
def test_right_to_left_text_runs_leftward() -> None:
    """Pieces follow the direction of the label's first letter; those of the other direction keep their own order."""
    words = [text.strip() for _, text in spelt("قطة cat γάτα חתול") if text.strip()]
    assert words == ["חתול", "cat", "γάτα", "قطة"]
    words = [text.strip() for _, text in spelt("cat قطة חתול dog") if text.strip()]
    assert words == ["cat", "חתול", "قطة", "dog"]
    # Joined letters take less room than those that stand alone.
    joined, apart = (set_line(joiner.join("\u0628" * 3), 40).width for joiner in ("", "\u200c"))
    assert joined < 0.9 * apart


@pytest.mark.parametrize("script", SCRIPTS)
def test_labels_fit_their_plates(script: str) -> None:
    """Tall letters with marks above and below included, all ink is inside."""
    plate = Plate(0, SCRIPTS[script][0], (0, 0, 9, 9), 0, (9, 9, 9))
    canvas = Image.new("RGB", (600, 200))
    plate.draw(canvas, (100, 50), 22.0)
    width, height = plate.size(22.0)
    rows, columns = np.nonzero(np.asarray(canvas).max(axis=2) > 20)
    assert rows.min() >= 50
    assert rows.max() < 50 + height
    assert columns.min() >= 100
    assert columns.max() < 100 + width
    assert rows.size > 50


def test_long_labels_of_any_script_are_shortened() -> None:
    """What is wider than the picture ends in dots; no longer than it has to."""
    for label, _ in SCRIPTS.values():
        plate = Plate(0, " ".join([label] * 30), (0, 0, 99, 99), 0, (9, 9, 9))
        ((shortened, _),) = place([plate], (300, 200), 14.0)
        assert shortened.text.endswith("…")
        assert 200 < shortened.size(14.0)[0] <= 300
