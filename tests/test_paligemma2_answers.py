"""How an answer is read, whole, broken or absurd."""

import pytest
from cutout_server.models.paligemma2.answers import Outline, read_answer
from hypothesis import given
from hypothesis import strategies as st
from paligemma_checkpoints import CODES, LOCATIONS
from paligemma_reference import read

pytestmark = pytest.mark.slow

BOX = ["<loc0010>", "<loc0020>", "<loc0510>", "<loc1023>"]
MASK = CODES[:16]
OUTLINE = Outline((10, 20, 510, 1023), tuple(range(16)), 0)

words = st.sampled_from(
    ["\u2581cat", "dog", "\u2581;\u2581", "\u2581", "\u2581;", ";", " ", "<unk>", "<loc", "seg001>"]
)
low, high = st.sampled_from(LOCATIONS[:512]), st.sampled_from(LOCATIONS[512:])
locations, codes = st.sampled_from(LOCATIONS), st.sampled_from(CODES)
boxes = st.lists(locations, min_size=4, max_size=4)
masks = st.lists(codes, min_size=16, max_size=16)
whole = st.tuples(boxes, st.sampled_from([[], ["\u2581"]]), masks, st.lists(words, max_size=3))
parts = st.one_of(
    whole.map(lambda parts: [piece for part in parts for piece in part]),
    boxes,
    masks,
    st.lists(st.one_of(locations, codes, words), max_size=6),
)
answers = st.lists(parts, max_size=6).map(lambda parts: [piece for part in parts for piece in part])


def starting_at(start: int) -> Outline:
    return Outline(OUTLINE.locations, OUTLINE.codes, start)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], []),
        (["no", "\u2581idea"], []),
        (BOX + MASK, [OUTLINE]),
        ([*BOX, "\u2581", *MASK, "\u2581wall", "\u2581;", "\u2581", *BOX, *MASK], [OUTLINE, starting_at(24)]),
        (["well", ",", *BOX, *MASK, "cat", ";", "dog"], [starting_at(2)]),
        (BOX + MASK + BOX + MASK, [OUTLINE, starting_at(20)]),
        # Truncated or malformed: the whole ones stay.
        ([*BOX, *MASK, ";", *BOX, *MASK[:15]], [OUTLINE]),
        ([*BOX, *MASK, ";", *BOX[:3]], [OUTLINE]),
        ([*BOX[:3], *MASK, ";", *BOX, *MASK], [starting_at(20)]),
        ([*BOX, "\u2581cat", ";", *BOX, *MASK], [starting_at(6)]),
        ([*BOX, *MASK, CODES[0], ";", *BOX, *MASK], [OUTLINE, starting_at(22)]),
        ([*BOX, *MASK[:8], "cat", *MASK[8:]], []),
        ([*BOX, "cat", *MASK], []),
        (MASK + BOX, []),
        # No such tokens.
        ([*BOX[:3], "<loc1024>", *MASK], []),
        ([*BOX, *MASK[:15], "<seg128>"], []),
        # No area.
        ([BOX[2], *BOX[1:], *MASK], []),
        ([*BOX[:3], BOX[1], *MASK], []),
        ([BOX[2], BOX[1], BOX[0], BOX[3], *MASK, *BOX, *MASK], [starting_at(20)]),
    ],
)
def test_whole_objects_are_kept(pieces, expected):
    """Four locations, sixteen codes, perhaps a space between; everything else is passed over."""
    assert read_answer(pieces) == expected


@given(answers)
def test_reads_as_the_published_grammar_reads(pieces):
    """Whatever is written, the objects with masks are the demonstration's, less those without an area."""
    found = read_answer(pieces)
    expected = read("".join(pieces).replace("\u2581", " "))
    assert [(outline.locations, outline.codes) for outline in found] == [(each.box, each.codes) for each in expected]
    assert [len("".join(pieces[: outline.start])) for outline in found] == [each.offset for each in expected]


@given(st.lists(st.text(max_size=12), max_size=40))
def test_no_text_breaks_it(pieces):
    """Arbitrary pieces give no object and no error."""
    assert read_answer(pieces) == []


@given(st.lists(st.tuples(st.tuples(low, low, high, high), masks), max_size=8))
def test_any_number_of_objects(objects):
    """As many objects as were written come back, in their order, however many there are."""
    pieces = [piece for box, mask in objects for piece in (*box, *mask, "\u2581;", "\u2581")]
    assert [outline.start for outline in read_answer(pieces)] == [22 * index for index in range(len(objects))]
