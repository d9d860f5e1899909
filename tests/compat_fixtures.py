"""A server and a gateway that speak the interfaces of neighbouring systems, and what their answers are held against."""

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
from cutout_gateway.settings import GatewaySettings
from cutout_server import parts
from cutout_server.images.fetch import FetchPolicy
from gateway_fixtures import GatewayThread
from paligemma_checkpoints import PaliGemmaFiles, paligemma_files  # noqa: F401 - a fixture
from PIL import Image
from pycocotools import mask as coco
from stable_diffusion_checkpoints import sd1  # noqa: F401 - a fixture
from waiting import PATIENCE_S

EVERY = ("segmentation-app", "paligemma-api=/paligemma", "generate-analyze", "sagemaker", "perceptra-seg")
FACE = [170, 60, 280, 190]


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
