"""The serverless functions for CVAT: their handler is called as Nuclio does, with what CVAT sends."""

import base64
import io
import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import yaml
from conftest import Photo, RunningServer
from cutout_client import Client

FUNCTIONS = Path(__file__).parent.parent / "examples" / "bridges" / "cvat"


class Context:
    """What Nuclio hands to a function."""

    def __init__(self) -> None:
        self.user_data = SimpleNamespace()
        self.logger = SimpleNamespace(error=lambda text: None, info=lambda text: None)

    def Response(self, **fields: Any) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(**fields)


class Function:
    """A deployed function."""

    def __init__(self, name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = yaml.safe_load((FUNCTIONS / f"{name}.yaml").read_text())
        for each in self.settings["spec"]["env"]:
            monkeypatch.setenv(each["name"], each["value"])
        monkeypatch.setenv("CUTOUT_CLIENT_SERVER", address)
        module, _, handler = self.settings["spec"]["handler"].partition(":")
        names = runpy.run_path(str(FUNCTIONS / f"{module}.py"))
        self.context, self.handler = Context(), names[handler]
        names["init_context"](self.context)

    def call(self, image: bytes, **body: Any) -> tuple[int, Any]:
        event = SimpleNamespace(body={"image": base64.b64encode(image).decode(), **body})
        response = self.handler(self.context, event)
        assert response.content_type == "application/json"
        return response.status_code, json.loads(response.body)


def encodings(client: Client) -> int:
    """How many pictures the server has encoded so far."""
    return sum(device.embeddings.misses for device in client.status().devices)


@pytest.fixture
def disc() -> tuple[bytes, np.ndarray]:
    """A picture and the mask of what is in it."""
    drawn = {}
    for mode, ground, ink in (("RGB", (30, 60, 40), (220, 180, 40)), ("1", 0, 1)):
        drawn[mode] = PIL.Image.new(mode, (160, 120), ground)
        PIL.ImageDraw.Draw(drawn[mode]).ellipse((20, 20, 80, 90), fill=ink)
    file = io.BytesIO()
    drawn["RGB"].save(file, "PNG")
    return file.getvalue(), np.asarray(drawn["1"])


@pytest.mark.parametrize("box", [None, [[15, 95], [85, 15]], [15, 15, 85, 95]])
def test_the_interactor(
    server: RunningServer, disc: tuple[bytes, np.ndarray], monkeypatch: pytest.MonkeyPatch, box: list | None
) -> None:
    """Clicks, with or without a box, become one mask of the picture's size; a second click is not encoded again."""
    picture, expected = disc
    function = Function("interactor", server.address, monkeypatch)
    assert function.settings["metadata"]["annotations"]["type"] == "interactor"
    client = function.context.user_data.client
    before = encodings(client)
    for negative in ([], [[120, 60]]):
        status, answer = function.call(picture, pos_points=[[50, 55]], neg_points=negative, obj_bbox=box)
        assert status == 200
        mask = np.array(answer["mask"])
        assert set(np.unique(mask)) == {0, 255}
        assert (mask.astype(bool) & expected).sum() / (mask.astype(bool) | expected).sum() > 0.9
    assert encodings(client) - before <= 1
    client.close()


def test_the_detector(server: RunningServer, photos: dict[str, Photo], monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of the function are looked for; each find has its mask in its box, as CVAT unpacks it."""
    function = Function("detector", server.address, monkeypatch)
    labels = [each["name"] for each in json.loads(function.settings["metadata"]["annotations"]["spec"])]
    assert function.context.user_data.labels == labels
    status, finds = function.call(photos["astronaut"].jpeg)
    assert status == 200
    with Client(server.address) as client:
        expected = client.segment_text(photos["astronaut"].jpeg, labels)
    assert [find["label"] for find in finds] == [each.label for each in expected]
    assert "face" in [find["label"] for find in finds]
    for find, each in zip(finds, expected, strict=True):
        *values, x_min, y_min, x_max, y_max = find["mask"]
        mask = np.zeros(photos["astronaut"].pixels.shape[:2], bool)
        mask[y_min : y_max + 1, x_min : x_max + 1] = np.reshape(values, (y_max - y_min + 1, x_max - x_min + 1))
        assert np.array_equal(mask, each.mask)
        assert 0 < float(find["confidence"]) <= 1
        assert len(find["points"]) % 2 == 0
    function.context.user_data.client.close()


def test_a_refusal_is_told(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server refuses comes back as CVAT shows it."""
    function = Function("interactor", server.address, monkeypatch)
    status, answer = function.call(b"no picture", pos_points=[[1, 1]], neg_points=[])
    assert status == 500
    assert "image" in answer
    function.context.user_data.client.close()
