"""Perceptra-seg's interface: its document's requests, through the real gateway and a real server."""

# ruff: noqa: F811 - fixtures are imported

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from clip_checkpoints import clip_folder  # noqa: F401 - fixtures
from compat_fixtures import FACE, astronaut, b64, by_rest, decoded, equipped, files, ok, pixels, rest  # noqa: F401 - fixtures
from conftest import Photo
from cutout_common.masks import polygons_decode
from paligemma_checkpoints import paligemma_files  # noqa: F401 - fixtures
from PIL import Image
from pycocotools import mask as coco
from stable_diffusion_checkpoints import sd1  # noqa: F401 - fixtures

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def mask_of(result: dict[str, Any]) -> np.ndarray:
    """By pycocotools, as of any RLE that is not compressed."""
    return coco.decode(coco.frPyObjects(result["rle"], *result["rle"]["size"])).astype(bool)


def test_perceptra_box(rest: httpx.Client, astronaut: Photo):
    """Every format is the same mask, which is SegmentByBox's; formats that were not asked for are null."""
    body = {"image": b64(astronaut), "box": FACE, "output_formats": ["rle", "png", "polygons"], "strategy": "largest"}
    answer = ok(rest.post("/v1/segment/box", json=body))
    [expected] = by_rest(rest, "box", astronaut, boxes=[dict(zip(("xMin", "yMin", "xMax", "yMax"), FACE, strict=True))])
    mask = mask_of(answer)
    np.testing.assert_array_equal(mask, decoded(expected["masks"][0]))
    np.testing.assert_array_equal(pixels(answer["png_base64"], "L") > 127, mask)
    outlines = [[np.array(ring) for ring in answer["polygons"]]]
    np.testing.assert_array_equal(polygons_decode(512, 512, outlines), mask)
    rows, columns = np.nonzero(mask)
    assert answer["bbox"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert (answer["area"], answer["score"]) == (mask.sum(), pytest.approx(expected["predictedIou"], abs=1e-5))
    assert answer["model_info"] == {"name": "builtin", "backend": "cutout", "device": None}
    assert answer["latency_ms"] > 0
    assert answer["request_id"]
    alone = ok(rest.post("/v1/segment/box", json={"image": f"data:image/jpeg;base64,{b64(astronaut)}", "box": FACE}))
    assert (alone["rle"], alone["png_base64"], alone["polygons"]) == (answer["rle"], None, None)


def test_perceptra_points(rest: httpx.Client, astronaut: Photo, files: str):
    """All points are of one object; the picture may be an address."""
    points = [{"x": 225, "y": 120, "label": 1}, {"x": 20, "y": 20, "label": 0}]
    body = {"image": f"{files}/astronaut.jpg", "points": points, "output_formats": ["rle"]}
    [expected] = by_rest(rest, "points", astronaut, prompts=[{"points": points}])
    np.testing.assert_array_equal(
        mask_of(ok(rest.post("/v1/segment/points", json=body))), decoded(expected["masks"][0])
    )


def test_perceptra_strategies(rest: httpx.Client, astronaut: Photo):
    """All masks in the prompts' order, the largest of all, or the union of all."""
    boxes = [[190, 80, 260, 160], [100, 300, 400, 500], [0, 0, 100, 100]]
    body = {"image": b64(astronaut), "boxes": boxes, "points": [{"x": 225, "y": 120, "label": 1}]}
    results = ok(rest.post("/v1/segment", json=body | {"strategy": "all"}))
    masks = [mask_of(each) for each in results]
    assert len(masks) == 4
    [largest] = ok(rest.post("/v1/segment", json=body))
    assert largest["area"] == max(each["area"] for each in results)
    [merged] = ok(rest.post("/v1/segment", json=body | {"strategy": "merge"}))
    np.testing.assert_array_equal(mask_of(merged), np.any(masks, axis=0))


def test_perceptra_without_pixels(rest: httpx.Client, photos: dict[str, Photo]):
    """A mask that has no pixels keeps its place, with area and score 0."""
    black = io.BytesIO()
    Image.new("RGB", (64, 48)).save(black, "PNG")
    image = base64.b64encode(black.getvalue()).decode()
    formats = {"output_formats": ["rle", "png", "polygons"], "strategy": "all"}
    boxes = [[0, 0, 1, 1], [63.2, 47.2, 63.4, 47.4]]
    results = ok(rest.post("/v1/segment", json={"image": image, "boxes": boxes, **formats}))
    assert len(results) == 2
    for each in results:
        assert mask_of(each).shape == pixels(each["png_base64"], "L").shape == (48, 64)
        assert each["area"] == mask_of(each).sum()
        assert each["area"] or each["score"] == 0


def test_perceptra_refuses(rest: httpx.Client, astronaut: Photo):
    """422 for what has not the documented form, 400 for prompts that cannot be, each with the field."""
    image = b64(astronaut)
    for path, body, field in (
        ("/box", {"image": image, "box": [1, 2, 3]}, "box[3]"),
        ("/box", {"image": image, "box": FACE, "output_formats": ["numpy"]}, "output_formats[0]"),
        ("/box", {"image": image, "box": FACE, "strategy": "best"}, "strategy"),
        ("/points", {"image": image, "points": [{"x": 1, "y": 1, "label": 2}]}, "points[0].label"),
        ("", {"image": image, "boxes": [FACE], "colour": 1}, "colour"),
    ):
        answer = rest.post(f"/v1/segment{path}", json=body)
        steps = [
            int(step) if step.isdecimal() else step for step in field.replace("]", "").replace("[", ".").split(".")
        ]
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", *steps])
    for path, body, text in (
        ("/box", {"image": image, "box": [600, 1, 700, 9]}, "box: "),
        ("/box", {"image": "", "box": FACE}, "image: "),
        ("/points", {"image": image, "points": []}, "points: "),
        ("", {"image": image}, "boxes: "),
        ("", {"image": image, "boxes": [FACE, [5, 5, 5, 9]]}, "boxes[1]"),
        ("", {"image": image, "boxes": [FACE], "points": [{"x": 1, "y": 900, "label": 1}]}, "points"),
    ):
        answer = rest.post(f"/v1/segment{path}", json=body)
        assert (path, answer.status_code) == (path, 400)
        assert answer.json()["detail"].startswith(text)
    assert ok(rest.get("/v1/healthz")) == {"status": "ok"}
