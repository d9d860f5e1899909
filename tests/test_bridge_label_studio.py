"""The machine learning backend for Label Studio: its documents' requests in, what its own converters read out."""

import importlib.metadata
import importlib.util
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import httpx
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from conftest import RunningServer
from cutout_client import Client
from cutout_client.bridges.http import label_studio_app
from cutout_client.bridges.label_studio import LabelStudioBackend
from starlette.testclient import TestClient
from waiting import PATIENCE_S

WIDTH, HEIGHT = 160, 120
TOKEN = "a-legacy-token"  # noqa: S105
JWT = "header.payload.signature"
# The interface of Label Studio's own SAM 2 example, and one with polygons.
BRUSHES = """
<View>
  <BrushLabels name="tag" toName="image"><Label value="defect" background="#FFA39E"/><Label value="dent"/></BrushLabels>
  <KeyPointLabels name="tag2" toName="image" smart="true"><Label value="defect"/></KeyPointLabels>
  <RectangleLabels name="tag3" toName="image" smart="true"><Label value="defect"/></RectangleLabels>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
</View>
"""
POLYGONS = BRUSHES.replace("BrushLabels", "PolygonLabels")


@pytest.fixture(scope="module")
def converters() -> ModuleType:
    """label-studio-sdk's module for brushes, alone: the whole package takes seconds to import."""
    package = importlib.metadata.distribution("label-studio-sdk")
    path = package.locate_file("label_studio_sdk/converter/brush.py")
    spec = importlib.util.spec_from_file_location("label_studio_brush", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_disc(mode: str = "RGB") -> PIL.Image.Image:
    image = PIL.Image.new(mode, (WIDTH, HEIGHT), 0 if mode == "1" else (30, 60, 40))
    PIL.ImageDraw.Draw(image).ellipse((20, 20, 80, 90), fill=1 if mode == "1" else (220, 180, 40))
    return image


DISC = np.asarray(a_disc("1"))


class Storage(BaseHTTPRequestHandler):
    """Label Studio, as far as it keeps pictures."""

    def do_POST(self):
        assert self.path == "/api/token/refresh"
        assert JWT in self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send(b'{"access": "for-minutes"}')

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Authorization"]))
        picture = io.BytesIO()
        a_disc().save(picture, "PNG")
        self.send(picture.getvalue())

    def send(self, content: bytes):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def storage() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Storage) as listening:
        listening.asked = []
        listening.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def bridge(client: Client) -> Iterator[TestClient]:
    with TestClient(label_studio_app(LabelStudioBackend(client))) as connected:
        yield connected


def setup(bridge: TestClient, storage: ThreadingHTTPServer, config: str = BRUSHES, token: str = TOKEN) -> None:
    """As Label Studio does when a model is connected to a project."""
    body = {"project": "7.1624359512", "schema": config, "hostname": storage.url, "access_token": token}
    answer = bridge.post("/setup", json=body | {"extra_params": None})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_version"].startswith("cutout-")


def keypoint(x: float, y: float, *, inside: bool = True) -> dict:
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 0.3, "keypointlabels": ["dent"]}
    return region("tag2", "keypointlabels", value) | {"is_positive": inside}


def rectangle(x_min: float, y_min: float, x_max: float, y_max: float) -> dict:
    value = {"x": 100 * x_min / WIDTH, "y": 100 * y_min / HEIGHT, "rotation": 0, "rectanglelabels": ["defect"]}
    size = {"width": 100 * (x_max - x_min) / WIDTH, "height": 100 * (y_max - y_min) / HEIGHT}
    return region("tag3", "rectanglelabels", value | size)


def region(from_name: str, kind: str, value: dict) -> dict:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "Dx_aB91ISN", "from_name": from_name, "to_name": "image", "type": kind, "value": value} | size


def predict(
    bridge: TestClient, *context: dict, config: str = BRUSHES, picture: str = "/data/upload/7/disc.png"
) -> dict:
    """The one prediction for the one task."""
    body = {
        "tasks": [{"id": 1, "data": {"image": picture}, "annotations": [], "predictions": []}],
        "project": "7.1624359512",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(context)} if context else None},
    }
    answer = bridge.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["results"]
    return prediction


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_health(bridge: TestClient) -> None:
    """Label Studio asks it before a model is connected."""
    for path in ("/", "/health"):
        assert bridge.get(path).json()["status"] == "UP"


@pytest.mark.parametrize(("token", "shown"), [(TOKEN, f"Token {TOKEN}"), (JWT, "Bearer for-minutes")])
def test_clicks_become_brush_strokes(
    bridge: TestClient, storage: ThreadingHTTPServer, converters: ModuleType, client: Client, token: str, shown: str
) -> None:
    """Each click gives the mask of all clicks so far, and costs the decoder alone: one fetch and one encoding."""
    setup(bridge, storage, token=token)
    before = client.status()
    first = predict(bridge, keypoint(50, 55))
    second = predict(bridge, keypoint(50, 55), keypoint(120, 60, inside=False))
    after = client.status()
    assert storage.asked == [("/data/upload/7/disc.png", shown)]
    encodings = sum(device.embeddings.misses for device in after.devices)
    assert encodings - sum(device.embeddings.misses for device in before.devices) <= 1
    for prediction in (first, second):
        (stroke,) = prediction["result"]
        assert (stroke["type"], stroke["from_name"], stroke["to_name"]) == ("brushlabels", "tag", "image")
        assert stroke["value"]["brushlabels"] == ["dent"]
        assert (stroke["original_width"], stroke["original_height"]) == (WIDTH, HEIGHT)
        flat = {"type": "brushlabels", "brushlabels": ["dent"], "rle": stroke["value"]["rle"]}
        sizes = {"original_width": WIDTH, "original_height": HEIGHT}
        (mask,) = converters.decode_from_annotation("tag", [flat | sizes]).values()
        assert iou(mask > 0, DISC) > 0.9
        assert 0 < prediction["score"] <= 1


def test_rectangles_become_polygons(bridge: TestClient, storage: ThreadingHTTPServer) -> None:
    """An interface with polygons gets the outline, in percent of the picture."""
    setup(bridge, storage, POLYGONS)
    prediction = predict(bridge, rectangle(15, 15, 85, 95), config=POLYGONS)
    drawn = PIL.Image.new("1", (WIDTH, HEIGHT))
    for part in prediction["result"]:
        assert part["type"] == "polygonlabels"
        assert part["value"]["closed"]
        assert part["value"]["polygonlabels"] == ["defect"]
        assert len(part["value"]["points"]) < 60  # of about 130 along the pixels' edges
        corners = [(x * WIDTH / 100, y * HEIGHT / 100) for x, y in part["value"]["points"]]
        PIL.ImageDraw.Draw(drawn).polygon(corners, fill=1)
    assert iou(np.asarray(drawn), DISC) > 0.9


def test_words_and_labels_are_looked_for(bridge: TestClient, storage: ThreadingHTTPServer, monkeypatch) -> None:
    """A text area's words, and without any gesture the labels, are the phrases; other gestures mean nothing."""
    asked: list[tuple[str, ...]] = []
    find = Client.segment_text

    def noted(self: Client, picture: object, phrases: tuple[str, ...], **options: object) -> object:
        asked.append(phrases)
        return find(self, picture, phrases, **options)

    monkeypatch.setattr(Client, "segment_text", noted)
    config = BRUSHES.replace("defect", "red").replace('"dent"', '"Yellow"')
    setup(bridge, storage, config)
    found = predict(bridge, config=config)
    written = predict(bridge, region("prompt", "textarea", {"text": ["yellow"]}), config=config)
    nothing = predict(bridge, region("tag", "brushlabels", {"rle": [], "brushlabels": ["red"]}), config=config)
    assert nothing["result"] == []
    assert asked == [("red", "Yellow"), ("yellow",)]
    for prediction in (found, written):
        assert {label for each in prediction["result"] for label in each["value"]["brushlabels"]} <= {"red", "Yellow"}


def test_a_forgotten_picture_is_stored_again(bridge: TestClient, storage: ThreadingHTTPServer, client: Client) -> None:
    """When the server has let go of a picture, the next click fetches it anew."""
    setup(bridge, storage)
    stored = []
    upload = client.upload
    client.upload = lambda content: stored.append(upload(content)) or stored[-1]
    predict(bridge, keypoint(50, 55))
    client.delete(stored[0])
    assert predict(bridge, keypoint(50, 55))["result"]
    assert len(stored) == len(storage.asked) == 2


def test_a_token_is_shown_where_it_belongs(bridge: TestClient, storage: ThreadingHTTPServer) -> None:
    """Pictures elsewhere are fetched without Label Studio's token."""
    setup(bridge, storage)
    predict(bridge, keypoint(50, 55), picture=f"http://localhost:{storage.server_port}/elsewhere.png")
    assert storage.asked == [("/elsewhere.png", None)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"label_config": "<View/>"}, "label_config must have BrushLabels or PolygonLabels"),
        ({"label_config": "<View"}, "label_config is no XML"),
        ({"label_config": BRUSHES, "tasks": [{"data": {}}]}, "data.image must be the address of a picture"),
        ({"label_config": BRUSHES, "tasks": [{"data": {"image": "/a.png"}}]}, "--label-studio-url"),
        ({"label_config": BRUSHES, "tasks": [{"data": {"image": "file:///etc/passwd"}}]}, "http:// and https://"),
        ([], "a request is a JSON object"),
    ],
)
def test_what_cannot_be_answered(bridge: TestClient, body: object, said: str) -> None:
    """What is wrong is said in a word with status 400."""
    answer = bridge.post("/predict", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_a_password_and_a_server_that_is_not_there(client: Client) -> None:
    """Where a password is asked for nobody enters without it; without a server the health is 503."""
    app = label_studio_app(LabelStudioBackend(client), basic_auth="me:secret")
    with TestClient(app) as bridge:
        assert bridge.get("/health").status_code == 401
        assert bridge.get("/health", auth=("me", "secret")).status_code == 200
    with Client("127.0.0.1:1", retries=0) as nobody, TestClient(label_studio_app(LabelStudioBackend(nobody))) as bridge:
        assert bridge.get("/health").status_code == 503


def test_the_command(server: RunningServer) -> None:
    """`cutout bridge label-studio` serves until it is told to end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cutout_client", "bridge", "label-studio", "--port", str(port)]
    with subprocess.Popen([*command, "--server", server.address], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"Label Studio finds this at http://127.0.0.1:{port}\n"
        with httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=PATIENCE_S) as asking:
            answer = asking.get(f"http://127.0.0.1:{port}/health")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert answer.json() == {"status": "UP", "model_class": "Cutout"}
