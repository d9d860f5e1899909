"""The contract from elsewhere: stubs that buf and protoc-gen-es make for Node, used against the real server."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import Photo, RunningServer
from cutout_client import cli
from pycocotools import mask as coco
from waiting import PATIENCE_S

from tools import require

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_generated_node_stubs_call_every_kind_of_method(
    server: RunningServer, photos: dict[str, Photo], tmp_path: Path
):
    """Every kind of call, and rich errors, work from a language that we did not write for."""
    node = require("node", "install Node.js")
    require("npx", "install Node.js")
    if not (ROOT / "node_modules/.bin/protoc-gen-es").exists():
        require("protoc-gen-es", "npm install")
    assert cli.main(["protos", "--out", str(ROOT / "build/contracts")]) == 0
    subprocess.run(["npx", "buf", "generate"], cwd=ROOT, check=True, capture_output=True)
    picture = tmp_path / "chelsea.jpg"
    picture.write_bytes(photos["chelsea"].jpeg)
    command = [node, "tests/node/segment.mjs", f"http://{server.address}", str(picture), "build/node"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["size"] == [451, 300]
    assert int(coco.area(said["rle"])) == said["area"] > 1_000
    assert said["events"] == ["header", "object", "summary"]
    assert said["session"] == ["opened", "segmentation"]
    assert said["refused"] == {"code": 3, "fields": ["boxes"]}
