"""One encode per picture, however many requests ask about it, and one pass per phrase: counted where models begin."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clip_checkpoints import owlv2_folder  # noqa: F401
from conftest import Photo, run_server
from cutout_client import Client, Exemplar
from cutout_server.models.builtin import detect
from cutout_server.models.builtin.cascades import Cascades
from cutout_server.models.grounding_dino.swin import Swin
from cutout_server.models.grounding_dino.text import TextTower
from grounding_dino_checkpoints import grounding_dino_folder  # noqa: F401
from paligemma_checkpoints import PaliGemmaFiles, one_thread, paligemma_files  # noqa: F401
from sam3_checkpoints import sam3_folder  # noqa: F401
from transformers import Owlv2ForObjectDetection, Owlv2Model, PaliGemmaModel, Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3ViTModel

BOX = (60.0, 20.0, 400.0, 290.0)


class Counts:
    """How many rows went through some methods."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.rows: dict[str, int] = {}

    def watch(self, name: str, owner: Any, method: str, rows: Callable[..., int]) -> None:
        """Counts the calls of a method by the rows of their arguments."""
        original = getattr(owner, method)
        self.rows[name] = 0

        def counting(*args: Any, **options: Any) -> Any:
            self.rows[name] += rows(*args[1:], **options)
            return original(*args, **options)

        self._monkeypatch.setattr(owner, method, counting)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


@pytest.fixture
def sam3(sam3_folder: Path, counts: Counts) -> Iterator[Client]:
    counts.watch("pictures", Sam3ViTModel, "forward", lambda pixels, **_: len(pixels))
    counts.watch("texts", Sam3Model, "get_text_features", lambda input_ids, **_: len(input_ids))
    model = {"name": "sam3", "family": "sam3", "checkpoint": str(sam3_folder)}
    with run_server(models=[model]) as server, Client(server.address) as client:
        yield client


@pytest.mark.slow
def test_sam3_encodes_a_picture_once_for_words_exemplars_and_prompts(
    sam3: Client, counts: Counts, photos: dict[str, Photo]
):
    """Whatever is asked first, and whoever asks; a phrase is read once, with any picture."""
    cat, rocket = photos["chelsea"].jpeg, photos["rocket"].jpeg
    first = sam3.segment_text(cat, "cat", box_threshold=0.01)
    assert len(first) > 0
    assert not first.timings.embedding_cached
    again = sam3.segment_text(cat, "cat", box_threshold=0.01)
    assert again.timings.embedding_cached
    assert [each.rle for each in again] == [each.rle for each in first]
    sam3.segment_text(cat, ["a red sofa", "cat"], box_threshold=0.01)
    sam3.segment_text(cat, "cat", exemplars=[BOX, Exemplar(BOX, negative=True)])
    assert sam3.segment_points(cat, [(200, 150)]).timings.embedding_cached
    sam3.segment_box(cat, BOX)
    sam3.segment_everything(cat, points_per_side=2)
    with sam3.session(cat) as session:
        session.text("cat")
        session.points([(200, 150)])
        session.text("a red sofa", exemplars=[BOX])
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda _: sam3.segment_text(cat, ["a red sofa", "an ear"]), range(4)))
    assert counts.rows == {"pictures": 1, "texts": 3}
    sam3.segment_box(rocket, BOX)
    sam3.segment_text(rocket, ["an ear", "cat"])
    assert counts.rows == {"pictures": 2, "texts": 3}


@pytest.mark.slow
def test_callers_who_come_together_share_an_encode(sam3: Client, counts: Counts, photos: dict[str, Photo]):
    """Words and clicks about one picture that nobody asked about before."""
    picture = photos["coffee"].jpeg
    asks = [lambda: sam3.segment_text(picture, "a cup"), lambda: sam3.segment_points(picture, [(200, 150)])]
    with ThreadPoolExecutor(6) as callers:
        list(callers.map(lambda ask: ask(), asks * 3))
    assert counts.rows == {"pictures": 1, "texts": 1}


@pytest.mark.slow
def test_paligemma2_looks_at_a_picture_once(paligemma_files: PaliGemmaFiles, counts: Counts, photos: dict[str, Photo]):
    """For the same words and for others."""
    counts.watch("pictures", PaliGemmaModel, "get_image_features", lambda pixels, **_: len(pixels))
    model = {
        "name": "paligemma2",
        "family": "paligemma2",
        "checkpoint": str(paligemma_files.folder),
        "companions": {"mask_decoder": str(paligemma_files.mask_decoder)},
    }
    with run_server(models=[model]) as server, Client(server.address) as client:
        # With the default segmenter there is no other model for the words.
        first, again, other = (
            client.segment_text(photos["coffee"].jpeg, phrases) for phrases in ("a cup", "a cup", ["a spoon", "a cup"])
        )
    assert len(first) > 0
    assert [each.rle for each in again] == [each.rle for each in first]
    assert [each.timings.embedding_cached for each in (first, again, other)] == [False, True, True]
    assert counts.rows == {"pictures": 1}


def ask_words(client: Client, picture: bytes, other: bytes) -> None:
    """The same words, others, the same ones in another order and with other options, and in a session."""
    for phrases in ("cat", "cat", ["a red sofa", "cat"], "a red sofa"):
        client.segment_text(picture, phrases, box_threshold=0.01)
    client.segment_text(picture, "cat", overlay="png")
    with client.session(picture) as session:
        session.text("cat")
        session.text("a red sofa")
    client.segment_text(other, "cat")


@pytest.mark.slow
def test_owlv2_looks_at_a_picture_once_and_reads_a_phrase_once(
    owlv2_folder: Path, counts: Counts, photos: dict[str, Photo]
):
    """Two pictures and two phrases, however often and in whichever company they are asked about."""
    counts.watch("pictures", Owlv2ForObjectDetection, "image_embedder", len)
    counts.watch("texts", Owlv2Model, "get_text_features", lambda input_ids, **_: len(input_ids))
    models = [
        {"name": "owlv2", "family": "owlv2", "checkpoint": str(owlv2_folder)},
        {"name": "builtin", "family": "builtin"},
    ]
    with run_server(models=models) as server, Client(server.address) as client:
        ask_words(client, photos["chelsea"].jpeg, photos["rocket"].jpeg)
    assert counts.rows == {"pictures": 2, "texts": 2}


@pytest.mark.slow
def test_grounding_dino_looks_at_a_picture_once(grounding_dino_folder: Path, counts: Counts, photos: dict[str, Photo]):
    """Its backbone, that is; of the text, a caption is read once: here of the one phrase, of the other, and of both."""
    counts.watch("pictures", Swin, "__call__", len)
    counts.watch("captions", TextTower, "_read", lambda _: 1)
    models = [
        {"name": "dino", "family": "grounding-dino", "checkpoint": str(grounding_dino_folder)},
        {"name": "builtin", "family": "builtin"},
    ]
    with run_server(models=models) as server, Client(server.address) as client:
        ask_words(client, photos["chelsea"].jpeg, photos["rocket"].jpeg)
    assert counts.rows == {"pictures": 2, "captions": 3}


def test_the_built_in_model_looks_for_a_thing_once(counts: Counts, photos: dict[str, Photo]):
    """However often, by whichever of its names, alone or among others, in a session or without."""
    counts.watch("cats", detect, "cat_faces", lambda *_: 1)
    counts.watch("people", Cascades, "people", lambda _: 1)
    counts.watch("others", Cascades, "find", lambda *_, **__: 1)
    cat, woman = photos["chelsea"].jpeg, photos["astronaut"].jpeg
    with run_server(models=[{"name": "builtin", "family": "builtin"}]) as server, Client(server.address) as client:
        assert len(client.segment_text(cat, "cat")) == 1
        assert len(client.segment_text(woman, "person")) == 1
        looked = dict(counts.rows)
        for phrases in ("cat", "kitten", ["cat face", "cats"], "red"):
            client.segment_text(cat, phrases)
        for phrases in ("face", ["woman", "head"], "people"):
            client.segment_text(woman, phrases)
        with client.session(woman) as session:
            session.text(["person", "face"])
    assert counts.rows == looked
    assert looked["cats"] == looked["people"] == 1
