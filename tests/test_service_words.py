"""SegmentByText behind the real stack: a small Grounding DINO finds, a small SAM 2.1 cuts out, as each does alone."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from asking import Ask, detect
from checkpoints import Sam2Files, official_model, official_predictor, sam2_files  # noqa: F401
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from cutout_server.models.grounding_dino import load
from cutout_server.models.queries import Detection
from cutout_server.types import ModelFiles
from grounding_dino_checkpoints import grounding_dino_folder, one_thread  # noqa: F401
from grpc_status import rpc_status
from language_model import KEY, MODEL, run_language_model
from pycocotools import mask as coco
from torchvision.ops import batched_nms

PHRASES = ("cat", "red sofa", "remote control")
BOX_THRESHOLD, TEXT_THRESHOLD = 0.3, 0.2

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def finding(grounding_dino_folder: Path, sam2_files: Sam2Files) -> Iterator[RunningServer]:
    """A server with both, and the built-in model."""
    sam = {"name": "sam", "family": "sam2", "checkpoint": str(sam2_files.checkpoint), "config": str(sam2_files.config)}
    dino = {"name": "dino", "family": "grounding-dino", "checkpoint": str(grounding_dino_folder)}
    with run_server(models=[sam, dino, {"name": "builtin", "family": "builtin"}]) as server:
        yield server


@pytest.fixture(scope="module")
def words(finding: RunningServer) -> Iterator[Stubs]:
    with finding.channel() as channel:
        yield Stubs.over(channel)


@pytest.fixture(scope="module")
def detected(grounding_dino_folder: Path, photos: dict[str, Photo]) -> list[Detection]:
    """What the detector alone finds; it is held equal to its own reference elsewhere."""
    query = Ask(photos["chelsea"].pixels, PHRASES, BOX_THRESHOLD, TEXT_THRESHOLD)
    (found,) = detect(load(ModelFiles(grounding_dino_folder), "cpu"), [query])
    assert len(found) > 5
    assert len({each.phrase_index for each in found}) > 1
    return list(found)


def request(photo: Photo, **changes: object) -> pb2.SegmentByTextRequest:
    height, width, _ = photo.pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=photo.pixels.tobytes())
    fields = {
        "image": image_pb2.Image(tensor=tensor),
        "phrases": PHRASES,
        "box_threshold": BOX_THRESHOLD,
        "text_threshold": TEXT_THRESHOLD,
        "options": segmentation_pb2.SegmentationOptions(nms_iou=1),
    }
    return pb2.SegmentByTextRequest(**fields | changes)


def told(found: segmentation_pb2.SegmentedObject) -> tuple[int, str, float, tuple[float, ...]]:
    box = found.prompt_box
    return (found.prompt_index, found.label, found.detection_score, (box.x_min, box.y_min, box.x_max, box.y_max))


def kept_by_torchvision(detected: list[Detection], nms_iou: float) -> list[Detection]:
    """Each phrase by itself, best first."""
    corners = torch.tensor([[d.box.x_min, d.box.y_min, d.box.x_max, d.box.y_max] for d in detected])
    scores = torch.tensor([d.score for d in detected])
    return [
        detected[i] for i in batched_nms(corners, scores, torch.tensor([d.phrase_index for d in detected]), nms_iou)
    ]


@pytest.mark.parametrize("nms_iou", [0.3, 0.7, 1.0])
def test_finds_carry_their_phrase_and_lose_their_duplicates(
    words: Stubs, photos: dict[str, Photo], detected: list[Detection], nms_iou: float
):
    """Boxes, scores and labels are the detector's, the best first, after NMS of each phrase by itself."""
    answer = words.segmentation.SegmentByText(request(photos["chelsea"], box_nms_iou=nms_iou)).segmentation
    expected = kept_by_torchvision(detected, nms_iou)
    empty = sum(o.count for o in answer.omissions if o.reason == segmentation_pb2.Omission.REASON_EMPTY)
    left_out = sum(o.count for o in answer.omissions if o.reason == segmentation_pb2.Omission.REASON_DUPLICATE)
    assert left_out == len(detected) - len(expected)
    assert len(answer.objects) + empty == len(expected)
    scores = [found.detection_score for found in answer.objects]
    assert scores == sorted(scores, reverse=True)
    by_score = {round(d.score, 5): d for d in expected}
    for found in answer.objects:
        index, label, score, box = told(found)
        detection = by_score[round(score, 5)]
        assert (index, label) == (detection.phrase_index, PHRASES[detection.phrase_index])
        clipped = np.clip(list(vars(detection.box).values()), 0, None)
        assert box[:2] == pytest.approx(clipped[:2], abs=1e-2)
    assert list(answer.models) == ["dino", "sam"]


def test_masks_are_those_of_the_boxes(words: Stubs, photos: dict[str, Photo], sam2_files: Sam2Files):
    """What is cut out is what the official predictor makes of the find's box."""
    predictor = official_predictor(official_model(sam2_files.config, sam2_files.checkpoint), photos["chelsea"].pixels)
    answer = words.segmentation.SegmentByText(request(photos["chelsea"], box_nms_iou=0.5)).segmentation
    assert len(answer.objects) >= 3
    for found in answer.objects[:3]:
        masks, _, _ = predictor.predict(box=np.array(told(found)[3], np.float32), multimask_output=False)
        rle = found.masks[0].rle
        cut = coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)
        assert (cut != masks[0].astype(bool)).sum() <= 3  # On one thread the predictor rounds otherwise.


def test_one_entry_may_hold_several_phrases(words: Stubs, photos: dict[str, Photo]):
    """Phrases ended by full stops are the same as a list of them."""
    listed = words.segmentation.SegmentByText(request(photos["chelsea"])).segmentation
    joined = words.segmentation.SegmentByText(request(photos["chelsea"], phrases=[" . ".join(PHRASES) + " ."]))
    assert [told(found) for found in joined.segmentation.objects] == [told(found) for found in listed.objects]


def test_the_most_and_the_surest_come_back(words: Stubs, photos: dict[str, Photo]):
    """max_objects keeps the best and says what it left out; a high threshold finds nothing, which is no error."""
    everything = words.segmentation.SegmentByText(request(photos["chelsea"])).segmentation.objects
    options = segmentation_pb2.SegmentationOptions(nms_iou=1, max_objects=2)
    two = words.segmentation.SegmentByText(request(photos["chelsea"], options=options)).segmentation
    assert [told(found) for found in two.objects] == [told(found) for found in everything[:2]]
    assert two.omissions[-1].reason == segmentation_pb2.Omission.REASON_BEYOND_MAX_OBJECTS
    none = words.segmentation.SegmentByText(request(photos["chelsea"], box_threshold=1.0)).segmentation
    assert (len(none.objects), list(none.models)) == (0, ["dino"])


def test_detector_and_segmenter_are_chosen_by_name(words: Stubs, photos: dict[str, Photo]):
    """Each by its own field."""
    answer = words.segmentation.SegmentByText(
        request(photos["chelsea"], phrases=["cat"], detector="builtin", segmenter="builtin")
    ).segmentation
    assert list(answer.models) == ["builtin", "builtin"]
    assert answer.objects[0].label == "cat"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"exemplars": [pb2.Exemplar(box=mask_pb2.Box(x_max=-9, y_max=9))]}, "exemplars[0].box.x_max"),
        ({"box_nms_iou": 0.0}, "box_nms_iou"),
        ({"detector": "sam"}, "detector"),
        ({"phrases": ["red sofa " * 28, "cat " * 60, "orange suit " * 21]}, None),
    ],
)
def test_what_is_not_to_be_had_is_refused(words: Stubs, photos: dict[str, Photo], changes: dict, field: str | None):
    """Nothing is ignored in silence; a long prompt is no error."""
    if field is None:
        words.segmentation.SegmentByText(request(photos["chelsea"], **changes))
        return
    with pytest.raises(grpc.RpcError) as caught:
        words.segmentation.SegmentByText(request(photos["chelsea"], **changes))
    assert [v.field for v in unpack(rpc_status.from_call(caught.value)).violations] == [field]


def test_sentences_are_rewritten(photos: dict[str, Photo]):
    """The answer shows what was looked for instead; when the model fails, that the plain words were used."""
    with run_language_model() as model:
        options = {"rewrite_url": model.url, "rewrite_model": MODEL, "rewrite_api_key": KEY}
        with run_server(**options) as server, server.channel() as channel:
            segment = Stubs.over(channel).segmentation.SegmentByText
            asked = {
                "phrases": ["plate", "What purrs?"],
                "rewrite": True,
                "box_threshold": None,
                "text_threshold": None,
            }
            model.says((0, "plate"), (1, "cat"))
            answer = segment(request(photos["chelsea"], **asked)).segmentation
            assert [(each.phrase, each.prompt_index) for each in answer.rewriting.phrases] == [("plate", 0), ("cat", 1)]
            assert not answer.rewriting.failure
            assert ("cat", 1) in [(found.label, found.prompt_index) for found in answer.objects]
            assert answer.timings.rewrite_ms > 0
            header = next(
                Stubs.over(channel).segmentation.StreamSegmentation(
                    pb2.StreamSegmentationRequest(text=request(photos["chelsea"], **asked))
                )
            ).header
            assert header.rewriting == answer.rewriting
            model.status = 500
            answer = segment(request(photos["chelsea"], **asked | {"phrases": ["cat"]})).segmentation
            assert [each.phrase for each in answer.rewriting.phrases] == ["cat"]
            assert answer.rewriting.failure
            assert answer.objects[0].label == "cat"
