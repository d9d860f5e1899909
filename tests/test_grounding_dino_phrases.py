"""Phrases to tokens: every token is known to be of one phrase, nothing is cut, and nonsense is refused by name."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import Ask, detect
from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.models.grounding_dino.pixels import places
from cutout_server.models.grounding_dino.prompts import NOBODY, Prompt, Prompter
from cutout_server.models.registry import FAMILIES
from cutout_server.models.runtime import EXACT
from cutout_server.types import ModelFiles
from grounding_dino_checkpoints import config, grounding_dino_folder, one_thread, tokenizer  # noqa: F401 - fixtures
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2_cases import PICTURES
from transformers import GroundingDinoForObjectDetection
from transformers.models.grounding_dino.modeling_grounding_dino import (
    generate_masks_with_special_tokens_and_transfer_map,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TOKENIZER = tokenizer()
LIMIT = 256


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(TOKENIZER, LIMIT)


def words(prompt: Prompt, phrase: int) -> list[str]:
    """The pieces of one phrase."""
    owned = [token for token, owners in zip(prompt.ids, prompt.owners, strict=True) if phrase in owners]
    return TOKENIZER.convert_ids_to_tokens(owned)


def test_each_token_has_its_phrase(prompter: Prompter):
    """Pieces of words belong to the phrase that they are of, marks to nobody."""
    (prompt,) = prompter.prompts(["cat", "Fluffhy  astronaut", "a dog's ear"])
    assert TOKENIZER.decode(prompt.ids) == "[CLS] cat. fluffhy astronaut. a dog ' s ear. [SEP]"
    assert words(prompt, 0) == ["cat"]
    assert words(prompt, 1) == ["fl", "##uff", "##hy", "astro", "##naut"]
    assert words(prompt, 2) == ["a", "dog", "'", "s", "ear"]
    marks = [token for token, owners in zip(prompt.ids, prompt.owners, strict=True) if owners == NOBODY]
    assert TOKENIZER.convert_ids_to_tokens(marks) == ["[CLS]", ".", ".", ".", "[SEP]"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: t.strip(" .")), max_size=5))
def test_the_tokens_are_those_of_the_whole_text(phrases: list[str]):
    """Whatever the caller wrote, the model reads what the reference's joined text reads as."""
    prompter = Prompter(TOKENIZER, 100_000)
    kept = {}
    for phrase in phrases:
        try:
            (prompt,) = prompter.prompts([phrase])
        except InvalidRequestError:
            continue
        kept.setdefault(prompt.ids, re.sub(r"[.?]", " ", phrase.lower()))
    if kept:
        (prompt,) = prompter.prompts(list(kept.values()))
        assert list(prompt.ids) == TOKENIZER(". ".join(kept.values()) + ".")["input_ids"]
        assert set(prompt.owners) - {NOBODY} == {(index,) for index in range(len(kept))}


@pytest.mark.parametrize("same", ["CAT", " cat ", "cat.", "cat .", "..cat..", "C\u00e1t"])
def test_phrases_that_read_the_same(prompter: Prompter, same: str):
    """They are asked once, for all of them."""
    (prompt,) = prompter.prompts(["dog", "cat", same, "dog"])
    assert prompt.ids == prompter.prompts(["dog", "cat"])[0].ids
    assert prompt.owners == (NOBODY, (0, 3), NOBODY, (1, 2), NOBODY, NOBODY)


def test_marks_within_a_phrase(prompter: Prompter):
    """They are left out: the model takes them for the end of a phrase, and this one stays one."""
    (prompt,) = prompter.prompts(["3.5 cups? [SEP] red", "cat"])
    assert list(prompt.ids) == TOKENIZER("3 5 cups [sep] red. cat.")["input_ids"]
    assert words(prompt, 0) == [*"35", "cup", "##s", "[UNK]", "s", "##e", "##p", "[UNK]", "red"]
    assert words(prompt, 1) == ["cat"]


@pytest.mark.parametrize("phrase", ["St. Astronaut", "a.s. cat", "U.S. flag"])
def test_a_phrase_with_full_stops_is_one(phrase: str):
    """All of its tokens, and no others, attend to each other, as the reference reads the ids."""
    (prompt,) = Prompter(TOKENIZER, LIMIT).prompts(["dog", phrase])
    marks = torch.tensor([101, 102, 1012, 1029])
    attends, _ = generate_masks_with_special_tokens_and_transfer_map(torch.tensor([prompt.ids]), marks)
    own = [place for place, owners in enumerate(prompt.owners) if owners == (1,)]
    assert len(own) >= 2
    for place in own:
        assert attends[0, place].nonzero()[:, 0].tolist() == [*own, own[-1] + 1]  # With the full stop that closes it.


def test_unicode(prompter: Prompter):
    """Words of any script are read as the tokenizer knows them, beside what it does not know."""
    (prompt,) = prompter.prompts(["\u732b", "\U0001f408 cat"])
    assert words(prompt, 0) == ["\u732b"]
    assert words(prompt, 1) == ["[UNK]", "cat"]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("", "expected words, got none in ''"),
        (" . . ", "expected words, got none"),
        ("?", "expected words, got none"),
        ("\u200b", "expected words, got none"),
        ("\U0001f408", "the model knows at least one, got none in '\U0001f408'"),
        ("a " * 254, "expected at most 253 tokens, got 254 in '(a ){20}\\.\\.\\.'"),
        ("a" * 200, "the model knows at least one, got none"),
    ],
)
def test_phrases_that_cannot_be_asked(prompter: Prompter, phrase: str, expected: str):
    """The error names the phrase."""
    with pytest.raises(InvalidRequestError, match=expected) as error:
        prompter.prompts(["cat", phrase])
    assert [violation.field for violation in error.value.violations] == ["phrases[1]"]


def test_a_phrase_at_the_limit(prompter: Prompter):
    """It fills a prompt by itself, with its marks; the others go into further ones."""
    prompts = prompter.prompts(["cat", " ".join("a" * 253), "dog", "red"])
    assert [len(prompt.ids) for prompt in prompts] == [4, 256, 6]
    assert [set(prompt.owners) - {NOBODY} for prompt in prompts] == [{(0,)}, {(1,)}, {(2,), (3,)}]


def test_more_phrases_than_the_model_reads(prompter: Prompter):
    """Prompts are as full as can be and end where phrases end; none is lost."""
    phrases = [f"{number} fluffhy {'a ' * (number % 7)}cats" for number in range(120)]
    prompts = prompter.prompts(phrases)
    assert len(prompts) > 3
    assert all(len(prompt.ids) <= LIMIT for prompt in prompts)
    for prompt, following in pairwise(prompts):
        (first,) = prompter.prompts([phrases[following.owners[1][0]]])
        assert len(prompt.ids) + len(first.ids) - 2 > LIMIT
    assert [each for prompt in prompts for owners in dict.fromkeys(prompt.owners) for each in owners] == [*range(120)]
    for prompt in prompts:
        for (owner,) in set(prompt.owners) - {NOBODY}:
            assert words(prompt, owner) == TOKENIZER.tokenize(phrases[owner])


def test_no_phrases(prompter: Prompter):
    """Nothing is asked."""
    assert prompter.prompts([]) == []


def test_another_tokenizer():
    """One whose marks are elsewhere would make the model join phrases."""
    with pytest.raises(FailedPreconditionError, match=r"at the ids \[101, 102, 1012, 1029\]; expected \[1, 2, 3, 4\]"):
        Prompter(TOKENIZER, LIMIT, [1, 2, 3, 4])


def test_a_prompt_in_parts(grounding_dino_folder: Path):  # noqa: F811
    """The finds of all parts, those of each part as if asked alone, under the caller's own indices."""
    detector = FAMILIES["grounding-dino"].load(ModelFiles(grounding_dino_folder), "cpu", EXACT)
    image = PICTURES["tiny"]()
    phrases = [f"{number} fluffhy astronauts on a launch pad" for number in range(40)]
    (together,) = detect(detector, [Ask(image, tuple(phrases), 0.0, 0.0)])
    parts = detector._prompter.prompts(phrases)
    assert len(parts) == 3
    expected = []
    for part in parts:
        own = sorted(owner for (owner,) in set(part.owners) - {NOBODY})
        query = Ask(image, tuple(phrases[index] for index in own), 0.0, 0.0)
        expected += [(found.box, found.score, own[found.phrase_index]) for found in detect(detector, [query])[0]]
    assert [(found.box, found.score, found.phrase_index) for found in together] == expected
    assert len({found.phrase_index for found in together}) >= 3


def test_a_picture_that_is_too_narrow(grounding_dino_folder: Path):  # noqa: F811
    """It is refused by name, where the reference breaks down."""
    detector = FAMILIES["grounding-dino"].load(ModelFiles(grounding_dino_folder), "cpu", EXACT)
    query = Ask(np.zeros((1, 60_000, 3), np.uint8), ("cat",), 0.0, 0.0)
    with pytest.raises(InvalidRequestError, match=r"less narrow.* 30 places, and has 0 at 160 x 0 pixels") as error:
        detect(detector, [query])
    assert [violation.field for violation in error.value.violations] == ["image"]
    assert detect(detector, [Ask(np.zeros((1, 300, 3), np.uint8), ("cat",), 0.0, 0.0)])[0]


@pytest.mark.parametrize("size", [(33, 160), (1, 160), (96, 97), (70, 9)])
def test_places(size: tuple[int, int]):
    """They are as many as the model has features of the picture."""
    model = GroundingDinoForObjectDetection(config(num_queries=1)).eval()
    ids = torch.tensor([TOKENIZER("cat.")["input_ids"]])
    with torch.inference_mode():
        outputs = model(pixel_values=torch.zeros(1, 3, *size), input_ids=ids)
    assert places(size, 8, 4) == outputs.encoder_last_hidden_state_vision.shape[1]
