"""Grounding DINO and MM Grounding DINO: boxes, scores and phrases are those of transformers' models and processor."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import Ask, detect
from cutout_server.models.grounding_dino import GroundingDino
from cutout_server.models.protocols import Detector
from cutout_server.models.queries import Detection
from cutout_server.models.registry import FAMILIES
from cutout_server.models.runtime import EXACT
from cutout_server.types import ModelFiles
from grounding_dino_checkpoints import (  # noqa: F401 - fixtures
    QUERIES,
    grounding_dino_folder,
    middle,
    mm_grounding_dino_folder,
    one_thread,
)
from PIL import Image
from sam2_cases import PICTURES
from transformers import (
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

PHRASES = ("cat", "Fluffhy astronaut", "remote control", "Red sofa!", "rocket on the launch pad")


class Reference:
    """The reference called as its documentation says, with one picture."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def outputs(self, query: Ask) -> tuple[object, dict]:
        image = Image.fromarray(query.pixels)
        inputs = self.processor(images=image, text=[list(query.phrases)], return_tensors="pt")
        with torch.inference_mode():
            return self.model(**inputs), inputs

    def __call__(self, query: Ask) -> dict:
        """Boxes, scores and words; beside them the index of the phrase that holds each one's best token."""
        outputs, inputs = self.outputs(query)
        (answer,) = self.processor.post_process_grounded_object_detection(
            outputs,
            threshold=query.box_threshold,
            text_threshold=query.text_threshold,
            target_sizes=[query.pixels.shape[:2]],
        )
        owners = torch.tensor(self.owners(query.phrases))
        assert len(owners) == inputs["input_ids"].shape[1]
        logits = outputs.logits[0, outputs.logits[0].amax(-1).sigmoid() > query.box_threshold, : len(owners)]
        best = logits.masked_fill(owners < 0, -torch.inf).argmax(-1)
        return {**answer, "phrases": owners[best].tolist()}

    def owners(self, phrases: tuple[str, ...]) -> list[int]:
        """The phrase of each token, told by where in the joined text the token was read."""
        text, spans = "", []
        for phrase in phrases:
            spans.append((len(text), len(text) + len(phrase)))
            text += f"{phrase.lower()}. "
        encoded = self.processor.tokenizer(text, return_offsets_mapping=True)
        marks = {101, 102, 1012, 1029}
        return [
            -1 if token in marks else next(i for i, (first, end) in enumerate(spans) if first <= start < end)
            for token, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]


@pytest.fixture(scope="module", params=["grounding-dino", "mm-grounding-dino"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param.replace('-', '_')}_folder")


def load(folder: Path, device: str = "cpu") -> GroundingDino:
    return FAMILIES["mm-grounding-dino" if folder.name.startswith("mm") else "grounding-dino"].load(
        ModelFiles(folder), device, EXACT
    )


@pytest.fixture(scope="module")
def detector(folder: Path) -> GroundingDino:
    return load(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def ask(pixels: np.ndarray, *phrases: str, threshold: float = 0.0, text_threshold: float = 0.0) -> Ask:
    return Ask(np.ascontiguousarray(pixels), phrases or PHRASES, threshold, text_threshold)


def boxes_of(detections: list[Detection]) -> np.ndarray:
    return np.array([(f.box.x_min, f.box.y_min, f.box.x_max, f.box.y_max) for f in detections]).reshape(-1, 4)


def assert_equal(detections: list[Detection], expected: dict, query: Ask) -> None:
    """Phrases identical, scores within 1e-5, boxes within 1e-5 of the picture's sides."""
    assert [found.phrase_index for found in detections] == expected["phrases"]
    np.testing.assert_allclose([found.score for found in detections], expected["scores"], atol=1e-5)
    height, width = query.pixels.shape[:2]
    sides = [width, height, width, height]
    np.testing.assert_allclose(boxes_of(detections) / sides, expected["boxes"] / torch.tensor(sides), atol=1e-5)


@pytest.mark.parametrize("phrases", [PHRASES, ("a fluffhy cat",)], ids=["many phrases", "one phrase"])
@pytest.mark.parametrize("name", PICTURES)
def test_equal_to_the_reference(detector: GroundingDino, reference: Reference, name: str, phrases: tuple[str, ...]):
    """Pictures tall, wide, tiny and large; about half of the boxes are above the threshold."""
    image = PICTURES[name]()
    threshold = middle(reference(ask(image, *phrases))["scores"])
    query = ask(image, *phrases, threshold=threshold, text_threshold=threshold / 2)
    expected = reference(query)
    (found,) = detect(detector, [query])
    assert_equal(found, expected, query)
    assert QUERIES // 4 <= len(found) <= 3 * QUERIES // 4


def test_all_boxes(detector: GroundingDino, reference: Reference):
    """Thresholds of nothing keep each query's box, and several phrases have some."""
    query = ask(PICTURES["square"]())
    (found,) = detect(detector, [query])
    assert_equal(found, reference(query), query)
    assert len(found) == QUERIES
    assert len({each.phrase_index for each in found}) >= 2
    assert np.ptp(boxes_of(found), axis=0).min() > 10


def test_text_threshold(detector: GroundingDino, reference: Reference):
    """Above the box threshold it keeps the boxes that exceed it: all, therefore, for which the reference has words."""
    query = ask(PICTURES["wide"](), "fluffhy")
    threshold = middle(reference(query)["scores"])
    (found,) = detect(detector, [dataclasses.replace(query, text_threshold=threshold)])
    assert_equal(found, reference(dataclasses.replace(query, box_threshold=threshold)), query)
    named = [bool(words) for words in reference(dataclasses.replace(query, text_threshold=threshold))["text_labels"]]
    assert len(found) >= sum(named) > 0
    assert not all(named)


def test_equal_in_a_batch(detector: GroundingDino, reference: Reference):
    """Pictures of all sizes in one call, each with its own phrases and threshold, and one that finds nothing."""
    queries = [ask(make(), *PHRASES[index:]) for index, make in enumerate(list(PICTURES.values())[:4])]
    queries = [ask(q.pixels, *q.phrases, threshold=middle(reference(q)["scores"])) for q in queries]
    queries.append(ask(queries[0].pixels, threshold=0.9999))
    assert isinstance(detector, Detector)
    answers = detect(detector, queries)
    for query, found in zip(queries, answers, strict=True):
        assert_equal(found, reference(query), query)
    assert all(answers[:-1])
    assert answers[-1] == []
    assert detect(detector, []) == []


def test_pictures_as_a_gpu_takes_them(detector: GroundingDino, reference: Reference, monkeypatch: pytest.MonkeyPatch):
    """Pictures of one size share a pass, with prompts of other lengths and thresholds, and answer as alone."""
    batches, passes = [], []

    class Counted:
        device, mixes_prompts = torch.device("cpu"), True

        def look(self, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
            batches.append(tuple(pixels.shape))
            return network.look(pixels)

        def __call__(self, levels: Sequence[torch.Tensor], prompts: list) -> tuple[torch.Tensor, torch.Tensor]:
            passes.append(len(prompts))
            return network(levels, prompts)

    network = detector._network
    monkeypatch.setattr(detector, "_network", Counted())
    monkeypatch.setattr(detector, "_per_pass", 4)
    square, wide = PICTURES["square"](), PICTURES["wide"]()
    turned = np.rot90(square).copy()
    queries = [ask(square), ask(wide, "cat"), ask(turned, "cat"), ask(square, *PHRASES[:3], threshold=0.5), ask(turned)]
    answers = detect(detector, queries)
    assert batches == [(4, 3, 96, 96), (1, 3, 40, 160)]
    assert passes == [4, 1]
    for query, found in zip(queries, answers, strict=True):
        assert_equal(found, reference(query), query)
    assert all(answers)


def test_phrases_are_never_debris(reference: Reference, detector: GroundingDino):
    """Where the reference joins phrases and leaves pieces of words, each box has one of the caller's phrases, whole."""
    query = ask(PICTURES["square"](), "cat", "Fluffhy astronaut", "remote control")
    query = ask(query.pixels, *query.phrases, threshold=0.05, text_threshold=middle(reference(query)["scores"]) - 0.05)
    words = [text for text in reference(query)["text_labels"] if text.strip()]
    assert any(text.startswith("##") for text in words) or any("cat" in t and "remote" in t for t in words)
    (found,) = detect(detector, [query])
    assert found
    assert {each.phrase_index for each in found} <= {0, 1, 2}
    assert all(each.score > query.text_threshold for each in found)
