"""SegmentEverything through the real server gives what the official mask generators give on the same weights."""

# ruff: noqa: F811 - fixtures are imported

import warnings
from typing import Any

import grpc
import numpy as np
import pytest
from cutout.v1 import image_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_server.pools.batch_sizing import BatchSizing
from everything_fixtures import Everything, everything, sam_checkpoint  # noqa: F401
from pycocotools import mask as coco
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from segment_anything import SamAutomaticMaskGenerator
from skimage import data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_memory")]

PICTURES = {
    "cat": data.chelsea,
    "wide": lambda: data.rocket()[100:260],
    "tall": lambda: np.ascontiguousarray(data.chelsea()[:, 100:220]),
    "tiny": lambda: data.coffee()[200:207, 300:305],
    "large": lambda: np.kron(data.coffee(), np.ones((2, 2, 1), np.uint8)),
}
# Where the small models' own answers lie thickest, so that either threshold leaves some out and some in.
THRESHOLDS = {"sam": (0.45, 0.8), "sam2": (0.06, 0.85), ("sam", "tiny"): (0.45, 0.0)}


def generate(everything: Everything, model: str, pixels: np.ndarray, **arguments: Any) -> list[dict[str, Any]]:
    kind = {"sam": SamAutomaticMaskGenerator, "sam2": SAM2AutomaticMaskGenerator}[model]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.*")  # which sam2 uses though PyTorch deprecates it
        return kind(everything.official[model], **arguments).generate(pixels)


def ask(everything: Everything, model: str, pixels: np.ndarray, **fields: Any) -> segmentation_pb2.Segmentation:
    height, width, _ = pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=pixels.tobytes())
    request = pb2.SegmentEverythingRequest(image=image_pb2.Image(tensor=tensor), segmenter=model, **fields)
    return everything.stubs.segmentation.SegmentEverything(request).segmentation


def mask_of(found: segmentation_pb2.SegmentedObject) -> np.ndarray:
    rle = found.masks[0].rle
    return coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)


@pytest.fixture(autouse=True)
def all_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else times that were measured would decide on the size of passes, and with it on how sums are rounded."""
    monkeypatch.setattr(BatchSizing, "best", lambda _, __, waiting: waiting)


def assert_same(answer: segmentation_pb2.Segmentation, records: list[dict[str, Any]]) -> None:
    """The same masks with the same scores, the best first.

    The pool joins points otherwise than the generator, and sums of another batch are rounded otherwise: a few pixels
    that lie on a threshold may turn, of a mask or of the two that its stability compares. That is rare: one mask of
    an answer, or two of many.
    """
    expected = sorted((r for r in records if r["area"]), key=lambda r: -r["predicted_iou"])
    assert len(answer.objects) == len(expected)
    scores = [found.predicted_iou for found in answer.objects]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, [r["predicted_iou"] for r in expected], rtol=0, atol=1e-4)
    rounded_otherwise = 0
    for found in answer.objects:
        mask = mask_of(found)
        # Scores may be so near to each other that the two orders differ.
        rivals = [r for r in expected if abs(r["predicted_iou"] - found.predicted_iou) < 1e-4]
        record = min(rivals, key=lambda r: np.count_nonzero(r["segmentation"] != mask))
        expected = [r for r in expected if r is not record]
        turned = np.count_nonzero(record["segmentation"] != mask)
        less_stable = abs(found.stability_score - record["stability_score"])
        assert turned <= 6
        assert less_stable < 1e-4 + 6 / found.area
        rounded_otherwise += turned > 0 or less_stable > 1e-4
        assert found.area == np.count_nonzero(mask)
        if not turned:
            x, y, width, height = record["bbox"]  # Without the last column and row.
            box = found.box
            assert (box.x_min, box.y_min, box.x_max, box.y_max) == (x, y, x + width + 1, y + height + 1)
    assert rounded_otherwise <= 1 + len(answer.objects) // 8


CASES = [
    ("sam", "cat", 5, 0),
    ("sam", "tall", 4, 1),
    ("sam", "tiny", 4, 1),
    ("sam", "large", 6, 0),
    ("sam2", "cat", 4, 2),
    ("sam2", "wide", 4, 1),
    ("sam2", "tiny", 4, 1),
    ("sam2", "large", 6, 0),
]


@pytest.mark.parametrize(("model", "picture", "side", "layers"), CASES)
def test_everything_is_what_the_official_generator_finds(everything, model, picture, side, layers):
    """Thresholds, stability, crops and both rounds of NMS leave the same masks with the same scores."""
    pixels = PICTURES[picture]()
    iou, stability = THRESHOLDS.get((model, picture), THRESHOLDS[model])
    records = generate(
        everything,
        model,
        pixels,
        points_per_side=side,
        pred_iou_thresh=iou,
        stability_score_thresh=stability,
        crop_n_layers=layers,
        crop_n_points_downscale_factor=2,
    )
    answer = ask(
        everything,
        model,
        pixels,
        points_per_side=side,
        predicted_iou_threshold=iou,
        stability_threshold=stability,
        crop_layers=layers,
        crop_points_downscale=2,
    )
    assert len(records) >= 3
    assert_same(answer, records)


@pytest.fixture(scope="module")
def usual(everything) -> list[dict[str, Any]]:
    """What is found by the defaults."""
    return generate(everything, "sam2", PICTURES["tall"](), points_per_side=4, crop_n_layers=1, pred_iou_thresh=0)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (
            {"box_nms_thresh": 0.4, "stability_score_offset": 3.0, "crop_overlap_ratio": 0.1, "crop_nms_thresh": 0.3},
            {"box_nms_iou": 0.4, "stability_offset": 3.0, "crop_overlap": 0.1, "crop_nms_iou": 0.3},
        ),
        ({"box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}, {"box_nms_iou": 1, "crop_nms_iou": 1}),
        ({"mask_threshold": 2.0}, {"options": {"mask_threshold": 2}}),
    ],
)
def test_each_field_is_the_official_generators_argument(everything, usual, arguments, fields):
    """Every one of them changes what is found, and in the same way."""
    pixels = PICTURES["tall"]()
    limits = {"points_per_side": 4, "predicted_iou_threshold": 0, "crop_layers": 1}
    records = generate(everything, "sam2", pixels, points_per_side=4, crop_n_layers=1, pred_iou_thresh=0, **arguments)
    assert {tuple(r["bbox"]) for r in records} != {tuple(r["bbox"]) for r in usual}
    assert_same(ask(everything, "sam2", pixels, **limits, **fields), records)


@pytest.mark.parametrize("model", ["sam", "sam2"])
def test_nothing_is_good_enough(everything, model):
    """Which is no error, whatever the picture's size."""
    for picture in ("tiny", "large"):
        assert not ask(everything, model, PICTURES[picture](), points_per_side=3, predicted_iou_threshold=1.0).objects


def test_without_thresholds_all_come_back_but_the_empty(everything):
    """What the official generator gives without a pixel is counted, not sent; so are duplicates."""
    pixels = PICTURES["tall"]()
    records = generate(everything, "sam", pixels, points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)
    answer = ask(everything, "sam", pixels, points_per_side=4, predicted_iou_threshold=0, stability_threshold=0)
    assert_same(answer, records)
    counts = {omission.reason: omission.count for omission in answer.omissions}
    empty = sum(r["area"] == 0 for r in records)
    assert empty
    assert counts == {
        segmentation_pb2.Omission.REASON_EMPTY: empty,
        segmentation_pb2.Omission.REASON_DUPLICATE: 3 * 4 * 4 - len(records),
    }


def test_small_regions_are_cleaned_as_by_the_official_generator(everything):
    """Holes are filled, parts removed, and of two that became alike the one that was whole before stays.

    The official generator would fill corners of the picture that a mask cuts off, too; no mask here does so.
    """
    pixels = PICTURES["cat"]()
    limits = {"predicted_iou_threshold": 0, "stability_threshold": 0.5, "points_per_side": 5}
    arguments = {"pred_iou_thresh": 0, "stability_score_thresh": 0.5, "points_per_side": 5}
    raw = ask(everything, "sam", pixels, **limits)
    answer = ask(everything, "sam", pixels, **limits, options={"max_hole_area": 299, "min_part_area": 300})
    records = generate(everything, "sam", pixels, **arguments, min_mask_region_area=300)
    assert_same(answer, records)
    assert {found.area for found in answer.objects} != {found.area for found in raw.objects}
    assert len(answer.objects) < len(raw.objects)


def test_logits_come_back_as_prompts(everything):
    """The logits of an object, sent back, are those of the mask that came with them."""
    pixels = PICTURES["cat"]()
    answer = ask(
        everything,
        "sam",
        pixels,
        points_per_side=3,
        predicted_iou_threshold=0,
        stability_threshold=0.8,
        options={"return_logits": True},
    )
    assert answer.objects
    for found in answer.objects:
        logits = np.frombuffer(found.logits.data, "<f4").reshape(256, 256)
        inside = logits[: round(256 * 300 / 451)] > 0  # Over the padded square.
        share = mask_of(found).mean()
        assert abs(inside.mean() - share) < 0.01 + 0.1 * share


REFUSED = {
    "box_nms_iou": 0.5,
    "stability_offset": 0.5,
    "crop_layers": 1,
    "crop_overlap": 0.2,
    "crop_points_downscale": 2,
    "crop_nms_iou": 0.5,
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_segmenter_with_a_way_of_its_own_refuses_the_grids_fields(everything, field):
    """They would be ignored otherwise; the error names the field."""
    with pytest.raises(grpc.RpcError, match=f"{field}.*a way of its own") as caught:
        ask(everything, "builtin", PICTURES["tiny"](), **{field: REFUSED[field]})
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"box_nms_iou": 0}, "box_nms_iou"),
        ({"box_nms_iou": 1.1}, "box_nms_iou"),
        ({"stability_offset": 0}, "stability_offset"),
        ({"stability_offset": 33}, "stability_offset"),
        ({"crop_layers": 4}, "crop_layers"),
        ({"crop_overlap": 0.95}, "crop_overlap"),
        ({"crop_overlap": -0.1}, "crop_overlap"),
        ({"crop_points_downscale": 9}, "crop_points_downscale"),
        ({"crop_points_downscale": 2, "crop_layers": 3, "points_per_side": 7}, "crop_points_downscale"),
        ({"crop_nms_iou": float("nan")}, "crop_nms_iou"),
        ({"crop_layers": 1, "options": {"return_logits": True}}, "options.return_logits"),
        ({"points_per_side": 65}, "points_per_side"),
    ],
)
def test_fields_out_of_bounds_are_refused(everything, fields, field):
    """The error names the field and what was expected."""
    with pytest.raises(grpc.RpcError, match=f"{field}.*expected") as caught:
        ask(everything, "sam", PICTURES["tiny"](), **fields)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
