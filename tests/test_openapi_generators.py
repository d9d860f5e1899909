"""The OpenAPI document as others use it: clients that generators make of it, calling a real gateway."""

import base64
import importlib
import io
import json
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import Photo, RunningServer
from cutout_client import Client
from waiting import PATIENCE_S

from tools import require

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def document(gateway_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the gateway serves."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(httpx.get(f"{gateway_url}/openapi.json", timeout=PATIENCE_S).content)
    return path


@pytest.fixture
def area(server: RunningServer, photos: dict[str, Photo]) -> int:
    """Pixels of the cat, by gRPC."""
    with Client(server.address) as client:
        (cat,) = client.segment_text(photos["chelsea"].jpeg, ["cat"])
    return cat.area


def test_openapi_python_client(
    gateway_url: str,
    document: Path,
    photos: dict[str, Photo],
    area: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """It makes a function of every operation; JSON, forms, raw bytes and refusals go and come in its own types."""
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none"]
    made = subprocess.run([*command, "--output-path", str(tmp_path / "rest")], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout
    monkeypatch.syspath_prepend(tmp_path)
    rest = importlib.import_module("rest")
    importlib.import_module("rest.models")
    names = [module.name for module in pkgutil.walk_packages(rest.__path__, "rest.") if not module.ispkg]
    calls = {name.rpartition(".")[2]: importlib.import_module(name) for name in names}
    operations = [each for path in json.loads(document.read_text())["paths"].values() for each in path.values()]
    assert len(operations) > 15
    assert sum(hasattr(module, "sync_detailed") for module in calls.values()) == len(operations)

    jpeg = photos["chelsea"].jpeg
    image = rest.models.CutoutV1Image(content=base64.b64encode(jpeg).decode())
    request = rest.models.CutoutV1SegmentByTextRequest(image=image, phrases=["cat"])
    by_text = calls["segmentation_service_segment_by_text"].sync_detailed
    with rest.Client(gateway_url, timeout=httpx.Timeout(PATIENCE_S)) as client:
        answer = by_text(client=client, body=request, x_request_id="from-afar")
        assert [(each.label, each.area) for each in answer.parsed.objects] == [("cat", area)]
        assert answer.headers["x-request-id"] == "from-afar"
        form = {"image_content": rest.types.File(io.BytesIO(jpeg)), "phrases": ["cat"]}
        body = rest.models.SegmentationServiceSegmentByTextFilesBody(**form)
        assert [each.area for each in by_text(client=client, body=body).parsed.objects] == [area]
        request.phrases = []
        refused = by_text(client=client, body=request)
        assert (refused.status_code, type(refused.parsed)) == (400, rest.models.GoogleRpcStatus)
        file = rest.types.File(io.BytesIO(jpeg))
        stored = calls["image_service_upload_image"].sync(client=client, body=file)
        given_back = calls["image_service_get_image"].sync_detailed(stored.image_id, client=client)
        assert given_back.content == jpeg


def test_openapi_typescript(gateway_url: str, document: Path, photos: dict[str, Photo], area: int, tmp_path: Path):
    """A caller passes the compiler's strict check by its types, and gets what they promise."""
    node = require("node", "install Node.js")
    if not (ROOT / "node_modules/.bin/openapi-typescript").exists():
        require("openapi-typescript", "npm install")
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    shutil.copy(ROOT / "tests/node/openapi.mjs", tmp_path)
    (tmp_path / "cat.jpg").write_bytes(photos["chelsea"].jpeg)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("node_modules/.bin/openapi-typescript", str(document), "-o", "api.d.ts")
    strict = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--skipLibCheck"]
    run("node_modules/.bin/tsc", *strict, "--module", "nodenext", "--target", "es2022", "openapi.mjs")
    said = json.loads(run(node, "openapi.mjs", gateway_url, "cat.jpg"))
    height, width, _ = photos["chelsea"].pixels.shape
    assert (said["area"], said["size"], said["models"]) == (area, [height, width], ["builtin"])
    assert said["refused"][0] == 400
    assert said["refused"][1].startswith("phrases: ")
