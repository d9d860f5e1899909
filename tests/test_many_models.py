"""Many models in one server, loaded and unloaded under traffic: every answer is the one given in peace."""

import random
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from checkpoints import Sam2Files, sam2_files  # noqa: F401 - a fixture
from clip_checkpoints import clip_folder, owlv2_folder, siglip_folder, write_clip  # noqa: F401 - fixtures
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import generation_service_pb2 as generation
from cutout.v1 import generation_service_pb2_grpc, image_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import model_service_pb2 as models_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from paligemma_checkpoints import PaliGemmaFiles, one_thread, paligemma_files  # noqa: F401 - fixtures
from pycocotools import mask as coco
from stable_diffusion_checkpoints import sd1  # noqa: F401 - a fixture
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

CONCEPTS = ["a cat", "an astronaut", "coffee", "a rocket"]
CALLERS = 2


@dataclass(frozen=True)
class Fleet:
    """The small models of every family, as settings."""

    models: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        return [model["name"] for model in self.models]


@pytest.fixture(scope="module")
def fleet(
    sam2_files: Sam2Files,  # noqa: F811
    clip_folder: Path,  # noqa: F811
    siglip_folder: Path,  # noqa: F811
    owlv2_folder: Path,  # noqa: F811
    paligemma_files: PaliGemmaFiles,  # noqa: F811
    sd1: Path,  # noqa: F811
) -> Fleet:
    """They."""
    files = {
        "sam2": {"checkpoint": str(sam2_files.checkpoint), "config": str(sam2_files.config)},
        "clip": {"checkpoint": str(clip_folder)},
        "siglip": {"family": "clip", "checkpoint": str(siglip_folder)},
        "owlv2": {"checkpoint": str(owlv2_folder)},
        "paligemma2": {
            "checkpoint": str(paligemma_files.folder),
            "companions": {"mask_decoder": str(paligemma_files.mask_decoder)},
        },
        "stable-diffusion": {"checkpoint": str(sd1)},
        "builtin": {},
    }
    return Fleet([{"name": name, "family": name, **each} for name, each in files.items()])


@pytest.fixture(scope="module")
def serving(fleet: Fleet) -> Iterator[RunningServer]:
    """A server with all of them."""
    with run_server(models=fleet.models, default_deadline_s=PATIENCE_S) as server:
        yield server


Question = Callable[[], Any]


def questions(channel: grpc.Channel, photos: dict[str, Photo]) -> dict[str, Question]:
    """One call for each thing that the models can do, alone and together."""
    segmentation, generator = (
        Stubs.over(channel).segmentation,
        generation_service_pb2_grpc.GenerationServiceStub(channel),
    )
    options = {"options": {"max_objects": 20}}

    def of(name: str) -> image_pb2.Image:
        height, width, _ = photos[name].pixels.shape
        tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=photos[name].pixels.tobytes())
        return image_pb2.Image(tensor=tensor)

    boxes = [mask_pb2.Box(x_min=60 + 9 * i, y_min=20, x_max=300, y_max=290) for i in range(5)]
    clicks = [{"points": [{"x": x, "y": 120, "label": 1}]} for x in (90, 200, 310)]
    regions = [{"box": boxes[0]}, {"point": {"x": 220, "y": 110, "label": 1}}]
    words = {"phrases": ["cat", "astronaut", "red sofa"]}
    asked = {
        "boxes": pb2.SegmentByBoxRequest(image=of("astronaut"), boxes=boxes, segmenter="sam2"),
        "boxes on another picture": pb2.SegmentByBoxRequest(image=of("coffee"), boxes=boxes[:2], segmenter="sam2"),
        "points": pb2.SegmentByPointsRequest(image=of("chelsea"), prompts=clicks, segmenter="sam2"),
        "points, builtin": pb2.SegmentByPointsRequest(image=of("chelsea"), prompts=clicks, segmenter="builtin"),
        "words to boxes to masks": pb2.SegmentByTextRequest(
            image=of("astronaut"), **words, detector="owlv2", segmenter="sam2", **options
        ),
        "words, builtin masks": pb2.SegmentByTextRequest(
            image=of("coffee"), phrases=["coffee"], detector="owlv2", segmenter="builtin", **options
        ),
        "words to masks": pb2.SegmentByTextRequest(
            image=of("chelsea"), phrases=["cat", "left eye"], segmenter="paligemma2", **options
        ),
        "concepts": pb2.AnalyzeImageRequest(
            image=of("astronaut"), concepts=CONCEPTS, regions=regions, classifier="clip", segmenter="sam2"
        ),
        "concepts, SigLIP": pb2.AnalyzeImageRequest(
            image=of("chelsea"), concepts=CONCEPTS, regions=regions, classifier="siglip", segmenter="builtin"
        ),
        "a picture": generation.GenerateImageRequest(prompts=["the cat"], seed=7, steps=2),
    }
    methods = {
        pb2.SegmentByBoxRequest: segmentation.SegmentByBox,
        pb2.SegmentByPointsRequest: segmentation.SegmentByPoints,
        pb2.SegmentByTextRequest: segmentation.SegmentByText,
        pb2.AnalyzeImageRequest: segmentation.AnalyzeImage,
        generation.GenerateImageRequest: generator.GenerateImage,
    }
    return {name: partial(methods[type(request)], request, timeout=PATIENCE_S) for name, request in asked.items()}


def assert_same(name: str, answer: Any, expected: Any) -> None:
    """Pictures identical, labels and order identical, scores within 1e-4, boxes within a pixel, masks but for edges."""
    if isinstance(answer, generation.GenerateImageResponse):
        assert [image.data for image in answer.images] == [image.data for image in expected.images], name
        return
    ours, theirs = answer.segmentation, expected.segmentation
    assert list(ours.models) == list(theirs.models), name
    assert_same_concepts(ours.concepts, theirs.concepts)
    assert len(ours.objects) == len(theirs.objects), name
    for one, other in zip(ours.objects, theirs.objects, strict=True):
        assert (one.prompt_index, one.label) == (other.prompt_index, other.label), name
        assert one.detection_score == pytest.approx(other.detection_score, abs=1e-4), name
        assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-4), name
        assert_same_concepts(one.concepts, other.concepts)
        differing = np.count_nonzero(mask_of(one) != mask_of(other))
        # Rounding depends on who shares a pass, and moves a pixel that lies on the threshold.
        assert differing <= 3, (name, differing)


def assert_same_concepts(ours: segmentation_pb2.Concepts, theirs: segmentation_pb2.Concepts) -> None:
    expected = {score.concept: score.score for score in theirs.scores}
    assert {score.concept: score.score for score in ours.scores} == pytest.approx(expected, abs=1e-4)


def mask_of(found: segmentation_pb2.SegmentedObject) -> np.ndarray:
    rle = found.masks[0].rle
    return coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)


def in_peace(asked: dict[str, Question]) -> dict[str, Any]:
    """The answers, one after the other; none of them is empty."""
    answers = {name: ask() for name, ask in asked.items()}
    for name, answer in answers.items():
        found = answer.images if isinstance(answer, generation.GenerateImageResponse) else answer.segmentation.objects
        assert found, name
    return answers


def call_at_once(asked: dict[str, Question], expected: dict[str, Any], beside: Callable[[], None]) -> None:
    """Many callers ask everything in orders of their own; for every answer `beside` runs once."""
    answered = threading.Semaphore(1)

    def caller(number: int) -> None:
        order = random.Random(number)  # noqa: S311 - reproducible
        for name in order.sample(list(asked), len(asked)):
            assert_same(name, asked[name](), expected[name])
            answered.release()

    def keep_on() -> None:
        for _ in range(CALLERS * len(asked)):
            assert answered.acquire(timeout=PATIENCE_S)
            beside()

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        callers = [pool.submit(caller, number) for number in range(CALLERS)]
        for each in (*callers, pool.submit(keep_on)):
            each.result()


def test_answers_stay_the_same_while_models_come_and_go(serving: RunningServer, fleet: Fleet, photos: dict[str, Photo]):
    """Requests of every kind from many callers, models loaded and unloaded all the while."""
    with serving.channel() as channel:
        asked, models = questions(channel, photos), Stubs.over(channel).models
        expected = in_peace(asked)
        order = random.Random(5)  # noqa: S311 - reproducible
        calls = {"loaded": 0, "unloaded": 0}

        def disturb() -> None:
            name = order.choice(fleet.names)
            if order.random() < 0.7:
                models.UnloadModel(models_pb2.UnloadModelRequest(name=name))
                calls["unloaded"] += 1
            else:
                # The model may be unloaded again before this is answered, so nothing is said of where it is.
                models.LoadModel(models_pb2.LoadModelRequest(name=name))
                calls["loaded"] += 1

        call_at_once(asked, expected, disturb)
        after = models.GetStatus(models_pb2.GetStatusRequest()).devices[0]
    assert calls["loaded"] >= 5
    assert calls["unloaded"] >= 10
    assert after.requests == 0


def test_models_leave_when_memory_is_short_and_answers_stay_the_same(fleet: Fleet, photos: dict[str, Photo]):
    """With room for some of the models only, the least recently used make way while requests go on."""
    with run_server(models=fleet.models, default_deadline_s=PATIENCE_S) as server, server.channel() as channel:
        sizes = server.app.status().devices[0].models
        expected = in_peace(questions(channel, photos))
    budget = max(sizes.values()) + sorted(sizes.values())[-2] // 2
    assert sum(sizes.values()) > budget
    with (
        run_server(
            models=fleet.models, default_deadline_s=PATIENCE_S, memory_budget_bytes=budget, preload=False
        ) as server,
        server.channel() as channel,
    ):
        held: list[int] = []

        def look() -> None:
            held.append(sum(server.app.status().devices[0].models.values()))

        call_at_once(questions(channel, photos), expected, look)
    assert 0 < max(held) <= budget


def test_thirty_loads_leave_no_memory_behind(tmp_path: Path):
    """The process is as large after them as it was after the first few, to a part of one model."""
    wide = {"name": "wide", "family": "clip", "checkpoint": str(write_clip(tmp_path, intermediate_size=100_000))}
    with run_server(models=[wide]) as server, server.channel() as channel:
        models = Stubs.over(channel).models

        def cycle() -> int:
            models.UnloadModel(models_pb2.UnloadModelRequest(name="wide"))
            empty = resident_bytes()
            models.LoadModel(models_pb2.LoadModelRequest(name="wide"))
            return empty

        loaded = server.app.status().devices[0].models["wide"]
        sizes = [cycle() for _ in range(30)]
    assert loaded > 40_000_000
    assert max(sizes[-10:]) - max(sizes[5:15]) < loaded // 2


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
