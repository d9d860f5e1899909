"""The interfaces of neighbouring systems: their documents' requests, through the real gateway and a real server."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from clip_checkpoints import clip_folder  # noqa: F401 - fixtures
from compat_fixtures import EVERY, FACE, astronaut, b64, by_rest, decoded, equipped, files, ok, pixels, rest  # noqa: F401 - fixtures
from conftest import Photo, run_server
from cutout_common.config import ConfigError
from cutout_common.masks import polygons_decode
from cutout_gateway import body as bodies
from cutout_gateway.app import create_app
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from paligemma_checkpoints import paligemma_files  # noqa: F401 - fixtures
from stable_diffusion_checkpoints import sd1  # noqa: F401 - fixtures
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
KEY = "a-key-of-sixteen-characters"


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
