"""PaliGemma 2 finds what its processor, `generate` and the published mask decoder find on the same weights."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Sequence

import numpy as np
import pytest
from cutout_server.errors import InvalidRequestError
from cutout_server.models.paligemma2 import PaliGemma2, load
from cutout_server.models.queries import MaskQuery, TextFind, TextQuery
from paligemma_checkpoints import (
    POSITIONS,
    STATES,
    PaliGemmaFiles,
    one_thread,  # noqa: F401
    paligemma,  # noqa: F401
    paligemma_files,  # noqa: F401
    write_mask_decoder,
    write_paligemma,
)
from paligemma_reference import Expected, Reference, reference_of

pytestmark = pytest.mark.slow

PHRASES = ("cat", "the woman in the orange suit", "a cup")


@pytest.fixture(scope="module")
def reference(paligemma_files: PaliGemmaFiles) -> Reference:
    return reference_of(paligemma_files.folder, paligemma_files.mask_decoder)


def check_finds(model: PaliGemma2, pixels: np.ndarray, finds: Sequence[TextFind], expected: Sequence[Expected]) -> None:
    height, width = pixels.shape[:2]
    assert len(finds) == len(expected)
    patches = model.masks([MaskQuery(find.embedding, find.logits, 0.0) for find in finds])
    masks = [patch.whole() for patch in patches]
    for find, mask, each in zip(finds, masks, expected, strict=True):
        box = (find.box.x_min / width, find.box.y_min / height, find.box.x_max / width, find.box.y_max / height)
        assert box == pytest.approx(each.box, abs=1e-9)
        assert find.score == pytest.approx(each.score, abs=1e-4)
        assert find.embedding.image_size == (height, width)
        assert np.abs(find.logits - each.logits).max() < 1e-4
        assert mask.shape == (height, width)
        assert (mask != each.mask).sum() <= 2  # Where the stretched logits are zero to the last bit.


def query(model: PaliGemma2, pixels: np.ndarray, phrases: tuple[str, ...], threshold: float = 0.0) -> TextQuery:
    return TextQuery(*model.encode([pixels]), phrases, threshold)


def check(model: PaliGemma2, reference: Reference, asked: Sequence[tuple[np.ndarray, tuple[str, ...]]]) -> int:
    """Asks phrases about pictures, all at once; how many objects there were."""
    answers = model.segment_text([query(model, *each) for each in asked])
    assert len(answers) == len(asked)
    for (pixels, phrases), finds in zip(asked, answers, strict=True):
        assert [find.phrase_index for find in finds] == sorted(find.phrase_index for find in finds)
        for index, phrase in enumerate(phrases):
            of_phrase = [find for find in finds if find.phrase_index == index]
            check_finds(model, pixels, of_phrase, reference(pixels, phrase))
    return sum(map(len, answers))


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_one_phrase_in_one_picture(paligemma: PaliGemma2, reference: Reference, photos, name):
    """Tokens equal, so boxes too; scores and logits within 1e-4, masks equal to a pixel or two on the boundary."""
    assert sum(check(paligemma, reference, [(photos[name].pixels, (phrase,))]) for phrase in PHRASES) > 0


def test_many_phrases_in_many_pictures(paligemma: PaliGemma2, reference: Reference, photos):
    """All in one call, more than fit into one pass, of different lengths: each answer is what it is alone."""
    asked = [(photo.pixels, PHRASES) for photo in photos.values()]
    assert check(paligemma, reference, asked) > 30
    answers = paligemma.segment_text([query(paligemma, *each) for each in asked])
    counts = {len([find for find in finds if find.phrase_index == 0]) for finds in answers}
    assert len(counts) > 1, "the pictures make no difference"
    assert len({str([(find.box, find.phrase_index) for find in finds[:1]]) for finds in answers}) == len(answers)
    by_phrase = {str([find.box for find in answers[0] if find.phrase_index == index]) for index in range(len(PHRASES))}
    assert len(by_phrase) == len(PHRASES), "the phrases make no difference"


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 200), (400, 3), (40, 300), (1500, 70), (1800, 2400)])
def test_pictures_of_all_shapes(paligemma: PaliGemma2, reference: Reference, photos, size):
    """Tall, wide, tiny and large; where a box is narrower than half a pixel its mask is empty."""
    pixels = photos["astronaut"].pixels
    height, width = size
    if height > 512:
        pixels = np.tile(pixels, (4, 5, 1))
    pixels = np.ascontiguousarray(pixels[:height, :width])
    assert check(paligemma, reference, [(pixels, ("cat", "dog"))]) > 0


def test_the_first_paligemma(tmp_path, photos):
    """The same holds for PaliGemma mix, whose second half is Gemma."""
    folder = write_paligemma(tmp_path / "model", version=1, seed=4)
    files = PaliGemmaFiles(folder, write_mask_decoder(tmp_path / "vae-oid.npz"))
    model = load(files.model_files, "cpu")
    asked = [(photos[name].pixels, PHRASES) for name in ("coffee", "chelsea")]
    assert check(model, reference_of(files.folder, files.mask_decoder), asked) > 0


def test_order_and_company_do_not_matter(paligemma: PaliGemma2, photos):
    """The same question gives the same answer among others, in any place, and when it is asked again."""
    queries = [query(paligemma, photo.pixels, PHRASES) for photo in photos.values()]
    together = paligemma.segment_text(queries)
    backwards = paligemma.segment_text(queries[::-1])[::-1]
    alone = [paligemma.segment_text([each])[0] for each in queries]
    for others in (backwards, alone):
        for finds, same in zip(together, others, strict=True):
            assert [find.box for find in finds] == [find.box for find in same]
            assert [find.score for find in finds] == pytest.approx([find.score for find in same], abs=1e-5)
            assert [find.phrase_index for find in finds] == [find.phrase_index for find in same]


def test_an_answer_that_is_cut_keeps_what_is_whole(
    paligemma: PaliGemma2, paligemma_files: PaliGemmaFiles, photos, monkeypatch
):
    """With room for 30 tokens one object is whole; with room for 19 none is."""
    asked = query(paligemma, photos["coffee"].pixels, PHRASES)
    (whole,) = paligemma.segment_text([asked])
    assert len(whole) > len(PHRASES)
    monkeypatch.setattr(paligemma, "_max_new_tokens", 30)
    (cut,) = paligemma.segment_text([asked])
    firsts = [next(find for find in whole if find.phrase_index == index) for index in range(len(PHRASES))]
    assert [find.box for find in cut] == [find.box for find in firsts]
    monkeypatch.setattr(paligemma, "_max_new_tokens", 19)
    assert paligemma.segment_text([asked]) == [[]]


def test_tokens_without_a_meaning(paligemma_files: PaliGemmaFiles, photos):
    """A model that writes tokens which its tokenizer does not know finds nothing."""
    model = load(paligemma_files.model_files, "cpu")
    model._model.lm_head.weight[-1, :STATES] = 50
    assert model.segment_text([query(model, photos["coffee"].pixels, ("cat",))]) == [[]]


def test_threshold_is_the_least_score(paligemma: PaliGemma2, photos):
    """Finds below box_threshold are left out, one at the threshold stays; scores are probabilities."""
    pixels = photos["coffee"].pixels
    (finds,) = paligemma.segment_text([query(paligemma, pixels, PHRASES)])
    scores = sorted(find.score for find in finds)
    assert 0 < scores[0] < scores[-1] < 1
    middle = scores[len(scores) // 2]
    (kept,) = paligemma.segment_text([query(paligemma, pixels, PHRASES, middle)])
    assert [find.box for find in kept] == [find.box for find in finds if find.score >= middle]
    assert paligemma.segment_text([query(paligemma, pixels, PHRASES, 1.0)]) == [[]]


def test_nothing_asked(paligemma: PaliGemma2, photos):
    """No queries and no phrases are no finds."""
    assert paligemma.segment_text([]) == []
    assert paligemma.segment_text([query(paligemma, photos["coffee"].pixels, ())]) == [[]]
    assert paligemma.masks([]) == []


@pytest.mark.parametrize(
    ("phrase", "says"),
    [
        ("x" * POSITIONS, "at most"),
        ("cat\ndog", "one line"),
        ("a <loc0012> cat", "'<loc0012>'"),
        ("<seg001>", "'<seg001>'"),
        ("<image>cat", "'<image>'"),
        ("cat<eos>", "'<eos>'"),
        ("<bos>", "'<bos>'"),
    ],
)
def test_phrases_that_cannot_be_asked(paligemma: PaliGemma2, photos, phrase, says):
    """Nothing is cut off and nothing poses as one of the model's own tokens; the error names the phrase."""
    with pytest.raises(InvalidRequestError, match=says) as caught:
        paligemma.segment_text([query(paligemma, photos["coffee"].pixels, ("cat", phrase))])
    assert [violation.field for violation in caught.value.violations] == ["phrases[1]"]


def test_the_longest_phrase(paligemma: PaliGemma2, reference: Reference, photos):
    """The limit that the error tells can be reached."""
    with pytest.raises(InvalidRequestError, match="at most") as caught:
        paligemma.segment_text([query(paligemma, photos["coffee"].pixels, ("x" * POSITIONS,))])
    limit = int(caught.value.message.split("at most ")[1].split()[0])
    longest = "x" * (limit - len("segment ") - 1)
    assert check(paligemma, reference, [(photos["coffee"].pixels, (longest, "cat {0}", "Élan 猫"))]) > 0
    with pytest.raises(InvalidRequestError, match="at most"):
        paligemma.segment_text([query(paligemma, photos["coffee"].pixels, (longest + "x",))])
