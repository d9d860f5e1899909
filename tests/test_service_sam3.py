"""SAM 3 behind the real stack: words and examples to masks as transformers finds them, and prompts by its tracker."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2, model_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from cutout_server.models.queries import DecodeQuery, MaskQuery
from cutout_server.models.sam3 import Sam3, load
from cutout_server.types import Box, Exemplar, ModelFiles, ObjectPrompt
from grpc_status import rpc_status
from pycocotools import mask as coco
from sam3_checkpoints import sam3_folder  # noqa: F401
from sam3_reference import Reference

pytestmark = pytest.mark.slow

PHRASES = ["cat", "a red sofa"]
THRESHOLD = 0.1
CORNERS = (60.0, 20.0, 400.0, 290.0)


@pytest.fixture(scope="module")
def sam3_server(sam3_folder: Path) -> Iterator[RunningServer]:
    """A server with the built-in model and a small SAM 3."""
    sam3 = {"name": "sam3", "family": "sam3", "checkpoint": str(sam3_folder)}
    with run_server(models=[sam3, {"name": "builtin", "family": "builtin"}]) as server:
        yield server


@pytest.fixture(scope="module")
def sam3(sam3_server: RunningServer) -> Iterator[Stubs]:
    with sam3_server.channel() as channel:
        yield Stubs.over(channel)


@pytest.fixture(scope="module")
def alone(sam3_folder: Path) -> Sam3:
    """The same model without a server; it is held equal to its own references elsewhere."""
    return load(ModelFiles(sam3_folder), "cpu")


def image_of(photo: Photo) -> image_pb2.Image:
    height, width, _ = photo.pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=photo.pixels.tobytes())
    return image_pb2.Image(tensor=tensor)


def mask_of(found: object) -> np.ndarray:
    rle = found.masks[0].rle
    return coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)


def ask(photo: Photo, **changes: object) -> pb2.SegmentByTextRequest:
    fields = {"image": image_of(photo), "phrases": PHRASES, "segmenter": "sam3", "box_threshold": THRESHOLD}
    return pb2.SegmentByTextRequest(**fields | changes)


@pytest.mark.parametrize("positive", [None, True, False])
def test_words_and_examples(sam3: Stubs, photos: dict[str, Photo], sam3_folder: Path, positive: bool | None):
    """Each phrase's finds are those of transformers' documented way, with its scores and masks."""
    photo = photos["chelsea"]
    box = Box(*CORNERS)
    shown = [] if positive is None else [pb2.Exemplar(box=mask_pb2.Box(**vars(box)), negative=not positive)]
    answer = sam3.segmentation.SegmentByText(ask(photo, exemplars=shown)).segmentation
    assert list(answer.models) == ["sam3"]
    reference = Reference(sam3_folder)
    examples = [] if positive is None else [Exemplar(box, positive)]
    count = 0
    for index, phrase in enumerate(PHRASES):
        expected = [each for each in reference(photo.pixels, phrase, THRESHOLD, examples) if each.mask.any()]
        found = [each for each in answer.objects if each.prompt_index == index]
        assert {each.label for each in found} <= {phrase}
        expected.sort(key=lambda each: -each.score)
        for one, other in zip(found, expected, strict=True):
            assert one.detection_score == pytest.approx(other.score, abs=1e-4)
            assert np.count_nonzero(mask_of(one) != other.mask) <= 4
        count += len(found)
    assert count >= 2


def test_without_a_name_it_serves_words(sam3: Stubs, photos: dict[str, Photo]):
    """A detector goes first where there is one; a named text segmenter goes before it."""
    named = sam3.segmentation.SegmentByText(ask(photos["chelsea"])).segmentation
    by_detector = sam3.segmentation.SegmentByText(
        pb2.SegmentByTextRequest(image=image_of(photos["chelsea"]), phrases=["cat"])
    ).segmentation
    assert (list(named.models), list(by_detector.models)) == (["sam3"], ["builtin", "sam3"])


def test_prompts_by_the_tracker(sam3: Stubs, photos: dict[str, Photo], alone: Sam3):
    """Boxes, points and both are answered as by the model itself."""
    photo = photos["chelsea"]
    (embedding,) = alone.encode([photo.pixels])
    point = mask_pb2.Point(x=200, y=150, label=1)
    boxes = pb2.SegmentByBoxRequest(image=image_of(photo), boxes=[mask_pb2.Box(**vars(Box(*CORNERS)))])
    points = pb2.SegmentByPointsRequest(image=image_of(photo), prompts=[pb2.ObjectPrompt(points=[point])])
    clicked = ObjectPrompt(points=np.array([[200, 150]], np.float32), labels=np.ones(1, np.int32))
    for answer, prompt in (
        (sam3.segmentation.SegmentByBox(boxes).segmentation, ObjectPrompt(box=Box(*CORNERS))),
        (sam3.segmentation.SegmentByPoints(points).segmentation, clicked),
    ):
        (candidates,) = alone.decode([DecodeQuery(embedding, prompt, multimask=False)])
        mask = alone.masks([MaskQuery(embedding, candidates.logits[0], 0.0)])[0].whole()
        (found,) = answer.objects
        assert found.predicted_iou == pytest.approx(float(candidates.predicted_iou[0]), abs=1e-4)
        assert np.count_nonzero(mask_of(found) != mask) <= 3


def test_everything_and_what_it_can_do(sam3: Stubs, photos: dict[str, Photo]):
    """Its tracker serves the grid of points; ListModels says that it takes examples."""
    request = pb2.SegmentEverythingRequest(
        image=image_of(photos["chelsea"]), points_per_side=3, predicted_iou_threshold=0, stability_threshold=0
    )
    assert sam3.segmentation.SegmentEverything(request).segmentation.objects
    model = sam3.models.GetModel(model_service_pb2.GetModelRequest(name="sam3")).model
    assert model.exemplars
    assert model_service_pb2.Model.TASK_SEGMENT_TEXT in model.tasks


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"text_threshold": 0.2}, "text_threshold"),
        ({"options": {"multimask": True}}, "options.multimask"),
        ({"options": {"return_logits": True}}, "options.return_logits"),
        ({"exemplars": [pb2.Exemplar(box=mask_pb2.Box(x_min=5000, x_max=5001, y_max=1))]}, "exemplars[0].box"),
        ({"phrases": ["cat", "cat " * 60]}, "phrases[1]"),
    ],
)
def test_what_it_would_ignore_is_refused(sam3: Stubs, photos: dict[str, Photo], changes: dict, field: str):
    """Each by its name."""
    with pytest.raises(grpc.RpcError) as caught:
        sam3.segmentation.SegmentByText(ask(photos["chelsea"], **changes))
    assert [v.field for v in unpack(rpc_status.from_call(caught.value)).violations] == [field]
