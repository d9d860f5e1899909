"""Cutout's own server through the gateway: real photographs, as docs/rest.md shows it."""

import base64
import io
import json
import re
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from analysis_fixtures import Analysis, analysis, clip_folder, words  # noqa: F401 - fixtures
from conftest import Photo, RunningServer, Stubs
from cutout.v1.segmentation_service_pb2 import SegmentByBoxRequest
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import HERE, EchoServer, GatewayThread, envoy, for_envoy
from generation_fixtures import painter, sd1  # noqa: F401 - fixtures
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from language_model import LanguageModel
from PIL import Image
from pycocotools import mask as coco
from waiting import PATIENCE_S

from tools import require

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
SERVICES = [f"cutout.v1.{name}" for name in ("ImageService", "ModelService", "SegmentationService")]


@pytest.fixture(scope="module")
def gateway(server: RunningServer) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=server.address)) as running:
        yield running


@pytest.fixture(scope="module")
def rest(gateway: GatewayThread) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def astronaut(photos: dict[str, Photo]) -> Photo:
    return photos["astronaut"]


FACE = {"x_min": 170, "y_min": 60, "x_max": 280, "y_max": 190}


def content(photo: Photo) -> dict[str, Any]:
    """A picture as JSON has it."""
    return {"content": base64.b64encode(photo.jpeg).decode()}


def body(answer: httpx.Response) -> Any:
    """JSON as values, so that 1 and 1.0 are one; everything else as it came."""
    return answer.json() if answer.headers["content-type"] == "application/json" else answer.content


def in_float32(value: Any) -> Any:
    """JSON with its numbers as the contract's floats: both sides write digits enough for those, not always the same."""
    if isinstance(value, dict):
        return {name: in_float32(item) for name, item in value.items()}
    if isinstance(value, list):
        return [in_float32(item) for item in value]
    return np.float32(value) if isinstance(value, float) else value


def test_segment_by_box(rest: httpx.Client, astronaut: Photo):
    """A box in, a mask out that pycocotools reads, inside the box's surroundings."""
    answer = rest.post("/v1/segment:box", json={"image": content(astronaut), "boxes": [FACE]})
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["objects"]
    mask = coco.decode(found["masks"][0]["rle"])
    assert mask.shape == (512, 512)
    assert mask.sum() == found["area"] > 2000
    rows, columns = np.nonzero(mask)
    assert columns.mean() == pytest.approx(225, abs=40)
    assert rows.mean() == pytest.approx(125, abs=40)


def test_forms_and_json_are_one(rest: httpx.Client, astronaut: Photo):
    """A form gives the answer that JSON gives."""
    by_json = rest.post("/v1/segment:text", json={"image": content(astronaut), "phrases": ["face"]}).json()
    files = {"image.content": ("a.jpg", astronaut.jpeg, "image/jpeg"), "phrases": (None, "face")}
    by_form = rest.post("/v1/segment:text", files=files).json()
    [from_json], [from_form] = by_json["objects"], by_form["objects"]
    assert (from_form["label"], from_form["promptBox"]) == ("face", from_json["promptBox"])
    assert by_form["image"] == by_json["image"]


def test_an_overlay_is_a_png(rest: httpx.Client, astronaut: Photo):
    """The picture's bytes in the body and the prompt in the query give a PNG of the picture's size."""
    query = {"boxes": [170, 60, 280, 190]}
    answer = rest.post("/v1/overlay", params=query, content=astronaut.jpeg, headers={"content-type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
    assert drawn.shape == astronaut.pixels.shape
    assert np.abs(drawn.astype(int) - astronaut.pixels)[60:190, 170:280].mean() > 5


def test_upload_use_and_delete(rest: httpx.Client, astronaut: Photo):
    """An uploaded picture comes back byte for byte, serves as a prompt's picture, and can be forgotten."""
    stored = rest.post("/v1/images", content=astronaut.jpeg).json()
    assert (stored["sizeBytes"], stored["width"]) == (len(astronaut.jpeg), 512)
    path = f"/v1/images/{stored['imageId']}"
    answer = rest.get(path)
    assert (answer.content, answer.headers["content-type"]) == (astronaut.jpeg, "image/jpeg")
    found = rest.post("/v1/segment:box", json={"image": {"image_id": stored["imageId"]}, "boxes": [FACE]})
    assert len(found.json()["objects"]) == 1
    assert rest.get(f"{path}/overlay", params={"boxes": [170, 60, 280, 190]}).content.startswith(b"\x89PNG")
    assert rest.delete(path).json() == {}
    assert rest.get(path).status_code == 404


def test_a_stream_arrives_line_by_line(rest: httpx.Client, astronaut: Photo):
    """Header, objects, summary: one JSON object a line."""
    sent = {"box": {"image": content(astronaut), "boxes": [FACE]}}
    with rest.stream("POST", "/v1/segment:stream", json=sent) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        kinds = [next(iter(json.loads(line)["result"])) for line in answer.iter_lines()]
    assert kinds == ["header", "object", "summary"]


def test_models_and_status(rest: httpx.Client):
    """`response_body` unwraps a model; verbs act on it; the status is told; the server is ready."""
    names = [model["name"] for model in rest.get("/v1/models").json()["models"]]
    assert names == ["builtin"]
    assert rest.get("/v1/models/builtin").json()["name"] == "builtin"
    assert rest.post("/v1/models/builtin:load", json={"device": "cpu"}).json()["loadedOn"] == ["cpu"]
    assert rest.post("/v1/models/builtin:load").json()["loadedOn"] == ["cpu"]  # A body is not required.
    assert rest.get("/v1/status").json()["devices"][0]["name"] == "cpu"
    assert rest.get("/readyz").json() == {"status": "SERVING"}


def test_refusals_name_the_field(rest: httpx.Client, astronaut: Photo):
    """The server's violations come through, in the contract's names, with the caller's request id."""
    answer = rest.post(
        "/v1/segment:box",
        json={"image": content(astronaut), "boxes": [FACE | {"x_max": 100}]},
        headers={"x-request-id": "my-id"},
    )
    assert answer.status_code == 400
    details = {detail["@type"].rpartition(".")[2]: detail for detail in answer.json()["details"]}
    assert details["ErrorInfo"]["domain"] == "cutout"
    assert details["BadRequest"]["fieldViolations"][0]["field"].startswith("boxes[0]")
    assert details["RequestInfo"]["requestId"] == "my-id"
    assert answer.headers["x-request-id"] == "my-id"
    assert rest.get("/v1/models/nobody").status_code == 404


@pytest.fixture(scope="module")
def descriptors() -> bytes:
    """Cutout's contract as Envoy takes it."""
    data = resources.files("cutout.v1").joinpath("descriptors.binpb").read_bytes()
    return for_envoy(FileDescriptorSet.FromString(data))


def test_envoy_answers_the_same(
    server: RunningServer, rest: httpx.Client, astronaut: Photo, descriptors: bytes, tmp_path: Path
):
    """A real Envoy over the same server has the same status, JSON and bytes, errors with all their details included."""
    image = content(astronaut)
    port = int(server.address.rpartition(":")[2])
    path = f"/v1/images/{rest.post('/v1/images', content=astronaut.jpeg).json()['imageId']}"
    with (
        envoy(tmp_path, descriptors, SERVICES, port) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S, headers={"x-request-id": "my-id"}) as theirs,
        httpx.Client(base_url=rest.base_url, timeout=PATIENCE_S, headers={"x-request-id": "my-id"}) as ours,
    ):
        for method, target, sent in [
            ("GET", "/v1/models", None),
            ("GET", path, None),
            ("GET", "/v1/models/nobody", None),
            ("DELETE", "/v1/images/nobody", None),
            ("POST", "/v1/segment:box", {"image": image}),
            ("POST", "/v1/segment:text", {"image": {"content": "AAAA"}, "phrases": ["face"]}),
            ("POST", "/v1/segment:text", {"image": image, "phrases": ["zeppelin"], "boxThreshold": 2}),
        ]:
            mine, other = (client.request(method, target, json=sent) for client in (ours, theirs))
            assert (mine.status_code, mine.headers["content-type"]) == (
                other.status_code,
                other.headers["content-type"],
            )
            assert (mine.content if target == path else mine.json()) == (
                other.content if target == path else other.json()
            )
        uploads = [client.post("/v1/images", content=astronaut.jpeg).json() for client in (ours, theirs)]
        assert {upload["sha256"] for upload in uploads} == {uploads[0]["sha256"]}


def test_envoy_writes_the_same_masks(stubs: Stubs, astronaut: Photo, descriptors: bytes, tmp_path: Path):
    """One real answer with every kind of mask, served to both, is the same JSON from both."""
    request = SegmentByBoxRequest(image={"content": astronaut.jpeg}, boxes=[FACE])
    request.options.mask_formats.extend([1, 2, 3, 4])
    request.options.return_logits = True
    answer = stubs.segmentation.SegmentByBox(request).SerializeToString()
    replay = EchoServer(Contract.load())
    replay.replace("SegmentByBox", lambda *_: replay.types["SegmentByBox"].FromString(answer))
    with (
        GatewayThread(GatewaySettings(server_address=replay.address)) as ours,
        envoy(tmp_path, descriptors, SERVICES, replay.port) as theirs,
    ):
        mine, other = (
            httpx.post(f"{url}/v1/segment:box", json={}, timeout=PATIENCE_S).json() for url in (ours.url, theirs)
        )
    replay.stop()
    assert len(mine["objects"][0]["masks"]) == 4
    assert in_float32(mine) == in_float32(other["segmentation"])  # Envoy knows no response_body


@pytest.mark.slow
def test_the_commands_of_the_page_work(
    analysis: Analysis,  # noqa: F811
    words: LanguageModel,  # noqa: F811
    painter: RunningServer,  # noqa: F811
    photos: dict[str, Photo],
    tmp_path: Path,
):
    """Every curl command in docs/rest.md runs as it stands, in its order, but for the address."""
    require("curl", "Debian has it in the package curl")
    (tmp_path / "cat.jpg").write_bytes(photos["chelsea"].jpeg)
    page = (HERE.parent / "docs" / "rest.md").read_text()
    commands = re.findall(r"^curl .*(?:\n +.*)*", page, re.MULTILINE)
    assert len(commands) >= 7
    words.says((0, "cat face"))
    script = "\n".join(f"{command} || exit {i + 1}" for i, command in enumerate(commands))
    script = script.replace("curl ", "curl --fail-with-body -sS ")
    arguments = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": PATIENCE_S}
    with (
        GatewayThread(GatewaySettings(server_address=analysis.address)) as running,
        GatewayThread(GatewaySettings(server_address=painter.address)) as painting,
    ):
        script = script.replace("http://127.0.0.1:8080/v1/generate", f"{painting.url}/v1/generate")
        command = f"set -o pipefail; {script.replace('http://127.0.0.1:8080', running.url)}"
        result = subprocess.run(["bash", "-c", command], check=False, **arguments)
    assert result.returncode == 0, (command, result.stdout[-2000:], result.stderr)
    for name in ("out.png", "point.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (photos["chelsea"].pixels.shape[1], photos["chelsea"].pixels.shape[0])
    assert json.loads((tmp_path / "kite.json").read_text())["images"][0]["seed"] == "7"
    assert result.stdout.count('"progress"') == 30
    # The form, the box, the stream's header, the analysis, the sentence.
    assert result.stdout.count('"pixelsSha256"') == 5
    assert '"phrase":"cat face"' in result.stdout
    assert result.stdout.count('"conceptIndex"') == 4
