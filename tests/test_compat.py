"""The interfaces of neighbouring systems: their documents' requests, through the real gateway and a real server."""

# ruff: noqa: F811 - fixtures are imported

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from clip_checkpoints import clip_folder  # noqa: F401 - a fixture
from conftest import Photo, RunningServer, run_server
from cutout_common.config import ConfigError
from cutout_common.masks import polygons_decode
from cutout_gateway import body as bodies
from cutout_gateway.app import create_app
from cutout_gateway.settings import GatewaySettings
from cutout_server import parts
from cutout_server.images.fetch import FetchPolicy
from gateway_fixtures import GatewayThread
from paligemma_checkpoints import PaliGemmaFiles, paligemma_files  # noqa: F401 - a fixture
from PIL import Image
from pycocotools import mask as coco
from stable_diffusion_checkpoints import sd1  # noqa: F401 - a fixture
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
EVERY = ("segmentation-app", "paligemma-api=/paligemma", "generate-analyze", "sagemaker", "perceptra-seg")
FACE = [170, 60, 280, 190]
KEY = "a-key-of-sixteen-characters"


@pytest.fixture(scope="module")
def files(photos: dict[str, Photo]) -> Iterator[str]:
    """A web server that has the astronaut at /astronaut.jpg."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/astronaut.jpg" else 404)
            self.end_headers()
            self.wfile.write(photos["astronaut"].jpeg)

        def log_message(self, *args: object) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def equipped(files: str, sd1: Path, clip_folder: Path, paligemma_files: PaliGemmaFiles) -> Iterator[RunningServer]:
    """A server with small models for everything, which fetches from `files` and from nowhere else."""
    paligemma = {"checkpoint": str(paligemma_files.folder)}
    paligemma |= {"companions": {"mask_decoder": str(paligemma_files.mask_decoder)}}
    models = [
        {"name": "builtin", "family": "builtin"},
        {"name": "clip", "family": "clip", "checkpoint": str(clip_folder)},
        {"name": "sd", "family": "stable-diffusion", "checkpoint": str(sd1)},
        {"name": "paligemma2-3b-448", "family": "paligemma2", **paligemma},
    ]
    policy = FetchPolicy(ports=(int(files.rpartition(":")[2]),), allow_private=True)
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # Other servers, which start later, fetch nothing.
            patch.setattr(parts, "_fetch_policy", lambda _: policy)
            server = stack.enter_context(run_server(models=models, preload=False))
        yield server


@pytest.fixture(scope="module")
def rest(equipped: RunningServer) -> Iterator[httpx.Client]:
    """A gateway that speaks everything."""
    settings = GatewaySettings(server_address=equipped.address, compat=EVERY)
    with GatewayThread(settings) as gateway, httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def astronaut(photos: dict[str, Photo]) -> Photo:
    return photos["astronaut"]


def b64(photo: Photo) -> str:
    return base64.b64encode(photo.jpeg).decode()


def pixels(text: str, mode: str = "RGB") -> np.ndarray:
    """Of a PNG in base64."""
    data = base64.b64decode(text)
    assert data.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def by_rest(rest: httpx.Client, kind: str, photo: Photo, **fields: Any) -> list[dict[str, Any]]:
    """What our own REST says."""
    return ok(rest.post(f"/v1/segment:{kind}", json={"image": {"content": b64(photo)}, **fields}))["objects"]


def decoded(mask: dict[str, Any]) -> np.ndarray:
    return coco.decode(mask["rle"]).astype(bool)


def test_nothing_is_spoken_unless_a_setting_names_it(gateway_url: str):
    """By default none of the paths is there."""
    for path in ("/segment", "/api/generate", "/ping", "/v1/segment/box", "/v1/healthz"):
        assert httpx.get(gateway_url + path, timeout=PATIENCE_S).status_code == 404


@pytest.mark.parametrize(
    ("compat", "text"),
    [
        (("segmentation-app", "paligemma-api"), "segmentation-app and paligemma-api both have /segment"),
        (("segmentation-app=/docs/static",), "the gateway's own"),
        (("sagemaker=/v1/models",), "/v1/models/ping, which is the gateway's own"),
        (("perceptra",), "expected segmentation-app, paligemma-api"),
    ],
)
def test_a_conflict_is_told_at_the_start(compat: tuple[str, ...], text: str):
    """Two interfaces with one path, a path that is the gateway's own, and a name that there is not."""
    with pytest.raises(ConfigError, match=text):
        create_app(GatewaySettings(compat=compat))


def test_browsers_still_get_the_page(rest: httpx.Client):
    """Where `/` is an interface's, whoever asks for HTML gets the page."""
    assert "<html" in rest.get("/", headers={"accept": "text/html,*/*"}).text
    assert rest.get("/").json() == {"message": "Image Segmentation API", "status": "running"}
    for path in ("/paligemma/", "/paligemma"):
        assert rest.get(path).json() == {"message": "Welcome to the PaliGemma Segmentation API!"}


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


def test_paligemma_api(rest: httpx.Client, photos: dict[str, Photo]):
    """The upright picture, and boxes in its pixels with the mask inside of each, which are SegmentByText's."""
    photo = photos["coffee"]
    files = {"image_file": ("c.jpg", photo.jpeg, "image/jpeg")}
    data = {"prompt": "segment a cup", "model_id": "google/paligemma2-3b-mix-448"}
    answer = ok(rest.post("/paligemma/segment", files=files, data=data))
    expected = by_rest(rest, "text", photo, phrases=["a cup"], segmenter="paligemma2-3b-448")
    assert np.abs(pixels(answer["image"]).astype(int) - photo.pixels).mean() < 5
    assert len(answer["masks"]) == len(expected) > 0
    for theirs, ours in zip(answer["masks"], expected, strict=True):
        left, top, right, bottom = theirs["coordinates"]
        box = [ours["promptBox"][side] for side in ("xMin", "yMin", "xMax", "yMax")]
        assert theirs["coordinates"] == pytest.approx(box, abs=1)
        small = pixels(theirs["mask"], "L")
        assert small.shape == (64, 64)
        assert small.mean() / 255 == pytest.approx(decoded(ours["masks"][0])[top:bottom, left:right].mean(), abs=0.01)


@pytest.mark.parametrize("kind", ["data", "json"])
def test_paligemma_api_by_address(rest: httpx.Client, files: str, astronaut: Photo, kind: str):
    """The server fetches the picture, and it comes back with the masks."""
    body = {"prompt": "segment face", "image_url": f"{files}/astronaut.jpg"}
    answer = ok(rest.post("/paligemma/segment", **{kind: body}))
    assert np.abs(pixels(answer["image"]).astype(int) - astronaut.pixels).mean() < 5
    [found] = answer["masks"]
    left, top, right, bottom = found["coordinates"]
    assert left < 225 < right
    assert top < 120 < bottom


def test_paligemma_api_refuses(rest: httpx.Client, files: str):
    """As {"status": "error"}, with 400 for what the caller did."""
    for data, text in (
        ({"prompt": "segment cat"}, "image_url: expected either"),
        ({"prompt": "segment cat", "image_url": "/etc/passwd"}, "image_url: expected an http"),
        ({"prompt": "segment cat", "image_url": f"{files}/nowhere"}, "image_url: "),
        ({"prompt": "segment cat", "image_url": f"{files}/astronaut.jpg", "model_id": "a/b"}, "model_id: "),
        ({"image_url": f"{files}/astronaut.jpg"}, "prompt: "),
    ):
        answer = rest.post("/paligemma/segment/", data=data)  # as the document's diagram has it
        assert (answer.status_code, answer.json()["status"]) == (400, "error")
        assert answer.json()["detail"].startswith(text)


def test_generate(rest: httpx.Client):
    """One prompt makes a picture, a list of them a list."""
    one = ok(rest.post("/api/generate", json={"prompt": "a serene lake at sunset"}))
    assert one["request_id"]
    assert pixels(one["generated_image"]).ndim == 3
    two = ok(rest.post("/api/generate", json={"prompt": ["sunset lake", "morning lake"]}))
    assert len([pixels(each) for each in two["generated_image"]]) == 2


def test_analyze(rest: httpx.Client, astronaut: Photo):
    """Concepts in the caller's order, and of each region its mask, its score and its outline."""
    texts = ["dog", "astronaut", "space"]
    body = {"image": b64(astronaut), "texts": texts, "roi": [FACE, [225, 120]]}
    answer = ok(rest.post("/api/analyze", json=body))
    assert answer["image"] == body["image"]
    concepts = answer["clip_analysis"]
    scores = concepts["confidence_scores"]
    assert concepts["concepts"] == texts
    assert sum(scores) == pytest.approx(1, abs=1e-4)
    assert concepts["max_confidence_concept"] == texts[int(np.argmax(scores))]
    [mask, _], [outline, _] = (answer["basic_segmentation"][name] for name in ("masks", "polygons"))
    assert len(answer["basic_segmentation"]["iou_scores"]) == 2
    inside = pixels(mask, "L") > 127
    assert inside[60:190, 170:280].mean() > 0.3
    np.testing.assert_array_equal(polygons_decode(512, 512, [[np.array(ring) for ring in outline]]), inside)


def test_advanced_generate(rest: httpx.Client):
    """A picture is made and analysed at once, region by region."""
    body = {"prompt": "text prompt", "texts": ["concept1", "concept2"], "roi": [[4, 4, 50, 50]]}
    answer = ok(rest.post("/api/adv/generate", json=body))
    height, width, _ = pixels(answer["generated_image"]).shape
    assert answer["clip_analysis"]["all_concepts"] == body["texts"]
    assert answer["clip_analysis"]["global_confident_concept"] in body["texts"]
    segmentation = answer["segmentation"]
    count = len(segmentation["masks"])
    assert {len(segmentation[name]) for name in ("iou_scores", "polygons", "segmented_regions")} == {count}
    for mask, region in zip(segmentation["masks"], segmentation["segmented_regions"], strict=True):
        assert pixels(mask, "L").shape == (height, width)
        assert region["clip_analysis"]["concepts"] == body["texts"]
        assert sum(region["clip_analysis"]["confidence_scores"]) == pytest.approx(1, abs=1e-4)


def test_generate_analyze_refuses(rest: httpx.Client, astronaut: Photo):
    """400 with {"error"} that names the field as the pipeline calls it."""
    image = b64(astronaut)
    for path, body, text in (
        ("generate", {"prompt": ""}, "prompt: "),
        ("generate", {"prompt": 7}, "prompt: "),
        ("generate", {}, "prompt: "),
        ("analyze", {"image": "%%%", "texts": ["a"], "roi": []}, "image.content: expected base64"),
        ("analyze", {"image": image, "texts": [], "roi": []}, "texts: "),
        ("analyze", {"image": image, "texts": ["a"], "roi": [[1, 2, 3]]}, "roi[0]: "),
        ("analyze", {"image": image, "texts": ["a"], "roi": [[900, 1, 950, 9]]}, "roi[0]"),
    ):
        answer = rest.post(f"/api/{path}", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(text)


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


def test_keys_bounds_and_metrics(astronaut: Photo, monkeypatch: pytest.MonkeyPatch):
    """Keys are asked for before a long body is read, bodies are bounded, and each path is counted by its own name."""
    monkeypatch.setattr(bodies, "LINGER_S", 0.2)  # so long one that never ends is read behind its refusal
    keys = [{"caller": "lab", "key": KEY}]
    with (
        run_server(api_keys=keys) as server,
        GatewayThread(GatewaySettings(server_address=server.address, compat=EVERY, max_body_bytes=200_000)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        body = {"image": b64(astronaut), "box": FACE}
        statuses = {
            key: rest.post("/v1/segment/box", json=body, headers={"authorization": f"Bearer {key}"} if key else {})
            for key in ("", KEY[:-1], KEY)
        }
        assert [each.status_code for each in statuses.values()] == [401, 403, 200]
        assert "detail" in statuses[""].json()

        def never_ends() -> Iterator[bytes]:
            yield b"x" * 70_000
            yield from iter(lambda: b"x" * 1000, b"")

        assert rest.post("/v1/segment/box", content=never_ends()).status_code == 401
        authorized = {"authorization": f"Bearer {KEY}"}
        assert rest.post("/v1/segment/box", content=b"x" * 200_001, headers=authorized).status_code == 413
        assert rest.post("/v1/segment/box", json=body, headers={"grpc-timeout": "0n", **authorized}).status_code == 504
        counted = 'cutout_gateway_requests_total{method="POST",route="/v1/segment/box",status="200"} 1.0'
        assert counted in rest.get("/metrics").text


def test_a_server_that_is_not_there():
    """503 in every interface's form."""
    with (
        GatewayThread(GatewaySettings(server_address="127.0.0.1:1", compat=EVERY)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        answers = [rest.get(path) for path in ("/health", "/ping", "/v1/healthz", "/queue-status")]
        answers.append(rest.post("/api/generate", json={"prompt": "a lake"}))
        answers.append(rest.post("/paligemma/segment", data={"prompt": "segment cat", "image_url": "http://a.example"}))
        assert {each.status_code for each in answers} == {503}
        assert [list(each.json()) for each in answers] == [*[["detail"]] * 4, ["error"], ["status", "detail"]]
