"""PaliGemma 2 behind the real stack: SegmentByText answers what the documented way gives on the same weights."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, model_service_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from grpc_status import rpc_status
from paligemma_checkpoints import PaliGemmaFiles, one_thread, paligemma_files  # noqa: F401 - fixtures
from paligemma_reference import Reference, reference_of
from pycocotools import mask as coco

pytestmark = pytest.mark.slow

PHRASES = ("cat", "the woman in the orange suit", "a cup")


@pytest.fixture(scope="module")
def server(paligemma_files: PaliGemmaFiles) -> Iterator[RunningServer]:
    """A server with the built-in model and a small PaliGemma 2."""
    model = {
        "name": "paligemma2",
        "family": "paligemma2",
        "checkpoint": str(paligemma_files.folder),
        "companions": {"mask_decoder": str(paligemma_files.mask_decoder)},
    }
    astray = model | {"name": "astray", "companions": {"mask_decoder": str(paligemma_files.folder / "config.json")}}
    with run_server(models=[model, astray, {"name": "builtin", "family": "builtin"}], preload=False) as running:
        yield running


@pytest.fixture(scope="module")
def stubs(server: RunningServer) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.over(channel)


@pytest.fixture(scope="module")
def reference(paligemma_files: PaliGemmaFiles) -> Reference:
    return reference_of(paligemma_files.folder, paligemma_files.mask_decoder)


def request(pixels: np.ndarray, *phrases: str, **changes: object) -> pb2.SegmentByTextRequest:
    """Of pixels, so that no JPEG stands between the two."""
    height, width, _ = pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=pixels.tobytes())
    fields = {"image": image_pb2.Image(tensor=tensor), "phrases": phrases, "segmenter": "paligemma2"} | changes
    return pb2.SegmentByTextRequest(**fields)


def mask_of(found: segmentation_pb2.SegmentedObject) -> np.ndarray:
    rle = found.masks[0].rle
    return coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)


def check(answer: segmentation_pb2.Segmentation, pixels: np.ndarray, phrases, reference: Reference) -> int:
    """How many objects there were, each of which is the reference's; those come sorted by their score here."""
    expected = [(index, each) for index, phrase in enumerate(phrases) for each in reference(pixels, phrase)]
    shown = sorted((pair for pair in expected if pair[1].mask.any()), key=lambda pair: -pair[1].score)
    assert list(answer.models) == ["paligemma2"]
    assert sum(omission.count for omission in answer.omissions) == len(expected) - len(shown)
    height, width = pixels.shape[:2]
    for found, (index, each) in zip(answer.objects, shown, strict=True):
        assert (found.prompt_index, found.label) == (index, phrases[index])
        assert found.detection_score == pytest.approx(each.score, abs=1e-4)
        box = found.prompt_box
        relative = (box.x_min / width, box.y_min / height, box.x_max / width, box.y_max / height)
        assert relative == pytest.approx(each.box, abs=1e-6)
        assert (mask_of(found) != each.mask).sum() <= 2
    return len(shown)


def test_words_to_masks(stubs: Stubs, reference: Reference, photos: dict[str, Photo]):
    """Labels, scores, boxes and masks are the reference's, the surest first."""
    pixels = photos["coffee"].pixels
    answer = stubs.segmentation.SegmentByText(request(pixels, *PHRASES)).segmentation
    assert check(answer, pixels, PHRASES, reference) > len(PHRASES)


def test_many_callers_at_once(stubs: Stubs, reference: Reference, photos: dict[str, Photo]):
    """Requests that share passes get what each would get alone."""
    asked = [(photo.pixels, PHRASES[:count]) for photo in photos.values() for count in (1, 2)]
    with ThreadPoolExecutor(len(asked)) as callers:
        calls = [callers.submit(stubs.segmentation.SegmentByText, request(pixels, *each)) for pixels, each in asked]
        answers = [call.result().segmentation for call in calls]
    assert sum(check(answer, *each, reference) for answer, each in zip(answers, asked, strict=True)) > 8


def test_masks_of_no_pixels_are_counted(stubs: Stubs, reference: Reference):
    """In a picture of one pixel most boxes round to nothing; such finds are omissions."""
    pixels = np.full((1, 1, 3), 90, np.uint8)
    answer = stubs.segmentation.SegmentByText(request(pixels, *PHRASES)).segmentation
    check(answer, pixels, PHRASES, reference)
    assert {each.reason for each in answer.omissions} == {segmentation_pb2.Omission.REASON_EMPTY}


@pytest.mark.parametrize(
    ("phrases", "changes", "field"),
    [
        (("cat", "a <loc0001> dog"), {}, "phrases[1]"),
        (("one\ntwo",), {}, "phrases[0]"),
        (("cat",), {"text_threshold": 0.5}, "text_threshold"),
        (("cat",), {"detector": "paligemma2"}, "detector"),
    ],
)
def test_what_it_cannot_be_asked(stubs: Stubs, photos: dict[str, Photo], phrases, changes, field):
    """The error names the field."""
    with pytest.raises(grpc.RpcError) as caught:
        stubs.segmentation.SegmentByText(request(photos["coffee"].pixels, *phrases, **changes))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in unpack(rpc_status.from_call(caught.value)).violations] == [field]


def test_a_wrong_mask_decoder(stubs: Stubs, photos: dict[str, Photo]):
    """The caller hears that the operator must fetch another file."""
    with pytest.raises(grpc.RpcError, match=r"download vae-oid\.npz") as caught:
        stubs.segmentation.SegmentByText(request(photos["coffee"].pixels, "cat", segmenter="astray"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_it_is_listed(stubs: Stubs):
    """As a model that segments by text and does nothing else."""
    models = {model.name: model for model in stubs.models.ListModels(model_service_pb2.ListModelsRequest()).models}
    assert list(models["paligemma2"].tasks) == [model_service_pb2.Model.TASK_SEGMENT_TEXT]
