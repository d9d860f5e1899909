"""Segmentation-App's interface and that of a SageMaker handler: their documents' requests, through the real gateway."""

# ruff: noqa: F811 - fixtures are imported

from typing import Any

import httpx
import numpy as np
import pytest
from clip_checkpoints import clip_folder  # noqa: F401 - fixtures
from compat_fixtures import astronaut, by_rest, decoded, equipped, files, ok, pixels, rest  # noqa: F401 - fixtures
from conftest import Photo, RunningServer
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from paligemma_checkpoints import paligemma_files  # noqa: F401 - fixtures
from stable_diffusion_checkpoints import sd1  # noqa: F401 - fixtures
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def test_segmentation_app(rest: httpx.Client, astronaut: Photo):
    """Boxes, labels, scores and the drawn picture are those of SegmentByText."""
    files = {"image": ("a.jpg", astronaut.jpeg, "image/jpeg")}
    data = {"text_prompt": "face . eye .", "box_threshold": "0.1"}
    answer = ok(rest.post("/segment", files=files, data=data, headers={"x-request-id": "my-task"}))
    expected = by_rest(rest, "text", astronaut, phrases=["face", "eye"], boxThreshold=0.1)
    assert (answer["task_id"], answer["status"], answer["detected_objects"]) == ("my-task", "completed", len(expected))
    assert answer["labels"] == [each["label"] for each in expected]
    assert "face" in answer["labels"]
    boxes = [[each["promptBox"][side] for side in ("xMin", "yMin", "xMax", "yMax")] for each in expected]
    assert answer["boxes"] == [pytest.approx(box, abs=0.01) for box in boxes]
    assert answer["scores"] == pytest.approx([each["detectionScore"] for each in expected], abs=1e-5)
    assert (pixels(answer["visualization"]) != astronaut.pixels).any(axis=2).mean() > 0.01


def test_segmentation_app_that_finds_nothing(rest: httpx.Client, photos: dict[str, Photo]):
    """There is a message, and neither scores nor a picture."""
    answer = ok(rest.post("/segment", files={"image": photos["coffee"].jpeg}, data={"text_prompt": "cat face"}))
    assert answer.pop("task_id")
    assert answer.pop("message")
    nothing: dict[str, Any] = {"boxes": [], "labels": [], "visualization": None}
    assert answer == {"status": "completed", "detected_objects": 0, **nothing}


def test_segmentation_app_looks_after_itself(rest: httpx.Client):
    """Health and queues."""
    assert ok(rest.get("/health")) == {"status": "healthy", "redis": "connected"}
    assert ok(rest.get("/queue-status")) == {"grounding_dino_queue": 0, "sam2_queue": 0}


def test_segmentation_app_refuses(rest: httpx.Client, astronaut: Photo):
    """What is missing or wrong is named by the app's own names, never with 200."""
    missing = rest.post("/segment", files={"image": astronaut.jpeg})
    assert (missing.status_code, missing.json()["detail"][0]["loc"]) == (422, ["body", "text_prompt"])
    no_picture = rest.post("/segment", files={"image": b"no picture"}, data={"text_prompt": "face"})
    assert no_picture.status_code == 400
    assert no_picture.json()["detail"].startswith("image: ")
    unknown = rest.post("/segment", files={"image": astronaut.jpeg}, data={"text_prompt": "zebra"})
    assert unknown.status_code == 400
    assert unknown.json()["detail"].startswith("text_prompt: ")
    assert rest.post("/segment", json={}).status_code == 415
    assert rest.get("/segment").status_code == 405


def test_sagemaker_words(rest: httpx.Client, files: str, astronaut: Photo):
    """`langsam`: the picture, the same with masks, and what they hold, with boxes and scores."""
    body = {"action": "langsam", "image_url": f"{files}/astronaut.jpg", "text_prompt": "face"}
    answer = ok(rest.post("/invocations", json=body))
    [expected] = by_rest(rest, "text", astronaut, phrases=["face"])
    assert (answer["tag"], len(answer["boxes"])) == ("face", 1)
    assert answer["scores"] == pytest.approx([expected["detectionScore"]], abs=1e-5)
    original, overlay, mask_only = (pixels(answer[name]) for name in ("original", "overlay", "mask_only"))
    inside = decoded(expected["masks"][0])
    np.testing.assert_array_equal(mask_only, original * inside[:, :, None])
    assert np.abs(overlay.astype(int) - original)[inside].mean() > 10


def test_sagemaker_point(rest: httpx.Client, files: str, astronaut: Photo):
    """`sam2`: the object at a point, with its score."""
    body = {"action": "sam2", "image_url": f"{files}/astronaut.jpg", "x": 225, "y": 120}
    answer = ok(rest.post("/invocations", json=body))
    [expected] = by_rest(rest, "points", astronaut, prompts=[{"points": [{"x": 225, "y": 120}]}])
    assert answer["score"] == pytest.approx(expected["predictedIou"], abs=1e-5)
    assert pixels(answer["mask_only"])[120, 225].any() == decoded(expected["masks"][0])[120, 225]


def test_sagemaker_that_finds_nothing(rest: httpx.Client, files: str):
    """The pictures come all the same: nothing drawn, nothing cut out."""
    body = {"action": "langsam", "image_url": f"{files}/astronaut.jpg", "text_prompt": "cat face"}
    answer = ok(rest.post("/invocations", json=body))
    assert (answer["boxes"], answer["scores"]) == ([], [])
    assert not pixels(answer["mask_only"]).any()
    np.testing.assert_array_equal(pixels(answer["overlay"]), pixels(answer["original"]))


def test_sagemaker_health_and_refusals(rest: httpx.Client, files: str, server: RunningServer):
    """/ping and its action, and no error with 200; a server that is not to fetch says so."""
    assert ok(rest.get("/ping")) == ok(rest.post("/invocations", json={"action": "ping"})) == {"status": "healthy"}
    address = f"{files}/astronaut.jpg"
    for body, text in (
        ({"action": "fly"}, "action: "),
        ({"action": "langsam", "text_prompt": "face"}, "image_url: "),
        ({"action": "langsam", "image_url": address}, "text_prompt: "),
        ({"action": "sam2", "image_url": address, "x": 5}, "y: "),
        ({"action": "sam2", "image_url": address, "x": 5000, "y": 5}, "x, y: "),
    ):
        answer = rest.post("/invocations", json=body)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(text)
    with GatewayThread(GatewaySettings(server_address=server.address, compat=("sagemaker=/sm",))) as gateway:
        body = {"action": "langsam", "image_url": address, "text_prompt": "face"}
        refused = httpx.post(f"{gateway.url}/sm/invocations", json=body, timeout=PATIENCE_S)
        assert refused.status_code == 403, refused.text
        said = "image_url: this server does not fetch pictures; send the file itself"
        assert refused.json() == {"detail": said}
