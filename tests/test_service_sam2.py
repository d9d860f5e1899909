"""SAM 2.1 behind the real stack: it answers what the official predictor answers on the same weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from checkpoints import Sam2Files, official_model, official_predictor, sam2_files  # noqa: F401 - a fixture
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2, model_service_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from pycocotools import mask as coco
from sam2.sam2_image_predictor import SAM2ImagePredictor
from scipy import ndimage

BOXES = np.array([[60, 20, 400, 290], [120, 60, 300, 250], [10, 10, 90, 120]], np.float32)


@pytest.fixture(scope="module")
def sam2_server(sam2_files: Sam2Files) -> Iterator[RunningServer]:  # noqa: F811
    """A server with the built-in model and a small SAM 2.1."""
    sam = {
        "name": "sam2.1",
        "family": "sam2",
        "checkpoint": str(sam2_files.checkpoint),
        "config": str(sam2_files.config),
    }
    with run_server(models=[sam, {"name": "builtin", "family": "builtin"}], default_segmenter="sam2.1") as server:
        yield server


@pytest.fixture(scope="module")
def sam2(sam2_server: RunningServer) -> Iterator[Stubs]:
    """Stubs over it."""
    with sam2_server.channel() as channel:
        yield Stubs.over(channel)


@pytest.fixture(scope="module")
def predictor(sam2_files: Sam2Files, photos: dict[str, Photo]) -> SAM2ImagePredictor:  # noqa: F811
    """The official one, with the astronaut set."""
    return official_predictor(official_model(sam2_files.config, sam2_files.checkpoint), photos["astronaut"].pixels)


def image_of(photo: Photo) -> image_pb2.Image:
    """Pixels, so that no JPEG stands between the two."""
    height, width, _ = photo.pixels.shape
    return image_pb2.Image(
        tensor=image_pb2.RawTensor(height=height, width=width, channels=3, data=photo.pixels.tobytes())
    )


def mask_of(found: segmentation_pb2.SegmentedObject) -> np.ndarray:
    rle = found.masks[0].rle
    return coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)


def test_boxes(sam2: Stubs, predictor: SAM2ImagePredictor, photos: dict[str, Photo]):
    """Several boxes at once: masks identical, scores within 1e-4."""
    boxes = [mask_pb2.Box(x_min=x0, y_min=y0, x_max=x1, y_max=y1) for x0, y0, x1, y1 in BOXES]
    answer = sam2.segmentation.SegmentByBox(
        pb2.SegmentByBoxRequest(image=image_of(photos["astronaut"]), boxes=boxes)
    ).segmentation
    masks, scores, _ = predictor.predict(box=BOXES, multimask_output=False)
    assert list(answer.models) == ["sam2.1"]
    for found, mask, score in zip(answer.objects, masks[:, 0].astype(bool), scores[:, 0], strict=True):
        assert np.array_equal(mask_of(found), mask)
        assert abs(found.predicted_iou - score) < 1e-4


def test_points_and_box_with_candidates_and_logits(
    sam2: Stubs, predictor: SAM2ImagePredictor, photos: dict[str, Photo]
):
    """Points with a box, three candidates, their logits; then one of those sent back as a mask prompt."""
    image = image_of(photos["astronaut"])
    points = np.array([[220, 110], [40, 480]], np.float32)
    labels = np.array([1, 0])
    prompt = pb2.ObjectPrompt(
        points=[mask_pb2.Point(x=x, y=y, label=label) for (x, y), label in zip(points, labels, strict=True)],
        box=mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290),
    )
    options = {"multimask": True, "return_logits": True}
    answer = sam2.segmentation.SegmentByPoints(
        pb2.SegmentByPointsRequest(image=image, prompts=[prompt], options=options)
    ).segmentation
    masks, scores, logits = predictor.predict(points, labels, box=BOXES[0], multimask_output=True)
    for found, index in zip(answer.objects, np.argsort(-scores), strict=True):
        assert np.array_equal(mask_of(found), masks[index].astype(bool))
        assert abs(found.predicted_iou - scores[index]) < 1e-4
        sent = np.frombuffer(found.logits.data, "<f4").reshape(256, 256)
        assert np.abs(sent - logits[index]).max() < 1e-4

    best = int(np.argmax(scores))
    again = pb2.ObjectPrompt(logits=answer.objects[0].logits, points=prompt.points[:1])
    (refined,) = sam2.segmentation.SegmentByPoints(
        pb2.SegmentByPointsRequest(image=image, prompts=[again])
    ).segmentation.objects
    masks, scores, _ = predictor.predict(points[:1], labels[:1], mask_input=logits[best][None], multimask_output=False)
    assert np.array_equal(mask_of(refined), masks[0].astype(bool))
    assert abs(refined.predicted_iou - scores[0]) < 1e-4


def test_one_encode_serves_many_prompts(sam2: Stubs, sam2_server: RunningServer, photos: dict[str, Photo]):
    """However many prompts follow, the picture goes through the encoder once."""
    misses = sam2_server.app.status().devices[0].embeddings.misses
    for x in (10, 50, 90):
        request = pb2.SegmentByBoxRequest(
            image=image_of(photos["rocket"]), boxes=[mask_pb2.Box(x_min=x, y_min=9, x_max=x + 200, y_max=300)]
        )
        sam2.segmentation.SegmentByBox(request)
    assert sam2_server.app.status().devices[0].embeddings.misses == misses + 1


def test_interleaved_requests_equal_serial_ones(sam2: Stubs, photos: dict[str, Photo]):
    """Two pictures, many prompts, eight callers, and the model loaded and unloaded meanwhile: the same answers."""
    tasks = [
        pb2.SegmentByBoxRequest(
            image=image_of(photos[name]), boxes=[mask_pb2.Box(x_min=x, y_min=20, x_max=x + 180, y_max=260)]
        )
        for x in (5, 60, 120)
        for name in ("astronaut", "chelsea")
    ]
    serial = [sam2.segmentation.SegmentByBox(task).segmentation.objects for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(sam2.segmentation.SegmentByBox, task) for task in tasks * 2]
        sam2.models.UnloadModel(model_service_pb2.UnloadModelRequest(name="sam2.1"))
        together = [call.result().segmentation.objects for call in pending]
    for (one,), (other,) in zip(together, serial * 2, strict=True):
        # Joined into other batches, sums are rounded otherwise; a pixel on the threshold may turn.
        assert abs(one.predicted_iou - other.predicted_iou) < 1e-5
        assert np.count_nonzero(mask_of(one) != mask_of(other)) <= 3


def test_a_model_can_be_given_back(sam2: Stubs):
    """UnloadModel empties its memory, LoadModel brings it back, both say where it is."""
    unloaded = sam2.models.UnloadModel(model_service_pb2.UnloadModelRequest(name="sam2.1")).model
    assert (list(unloaded.loaded_on), unloaded.memory_bytes) == ([], 0)
    loaded = sam2.models.LoadModel(model_service_pb2.LoadModelRequest(name="sam2.1", device="cpu")).model
    assert list(loaded.loaded_on) == ["cpu"]
    assert loaded.memory_bytes > 100_000
    assert model_service_pb2.Model.TASK_SEGMENT in loaded.default_for


@pytest.mark.slow
def test_everything_by_a_grid_of_points(sam2: Stubs, photos: dict[str, Photo]):
    """Every mask that comes back passed both thresholds, and no two overlap beyond the NMS threshold."""
    request = pb2.SegmentEverythingRequest(
        image=image_of(photos["chelsea"]),
        points_per_side=6,
        predicted_iou_threshold=0,
        stability_threshold=0.3,
        options={"nms_iou": 0.7},
    )
    answer = sam2.segmentation.SegmentEverything(request).segmentation
    assert answer.objects
    rles = [{"size": list(f.masks[0].rle.size), "counts": f.masks[0].rle.counts} for f in answer.objects]
    overlaps = coco.iou(rles, rles, [False] * len(rles)) - np.eye(len(rles))
    assert overlaps.max(initial=0) <= 0.7
    assert all(found.stability_score >= 0.3 for found in answer.objects)


def test_parts_and_holes_are_cleaned_on_request(sam2: Stubs, photos: dict[str, Photo]):
    """A mask of many parts and holes is left with its largest part and no hole when both bounds are high."""
    box = mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)

    def run(**options: int) -> np.ndarray:
        request = pb2.SegmentByBoxRequest(image=image_of(photos["astronaut"]), boxes=[box], options=options)
        return mask_of(sam2.segmentation.SegmentByBox(request).segmentation.objects[0])

    raw = run()
    _, parts = ndimage.label(raw, np.ones((3, 3)))
    assert parts > 1
    one_part = run(min_part_area=2**31)
    assert ndimage.label(one_part, np.ones((3, 3)))[1] == 1
    assert not np.any(one_part & ~raw)
    filled = run(max_hole_area=2**31)
    assert np.array_equal(filled, ndimage.binary_fill_holes(raw, np.ones((3, 3))))
    assert filled.sum() > raw.sum()
