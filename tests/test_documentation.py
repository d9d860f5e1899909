"""Every code block of the documents, run as written on the README's own server, or on small models if it needs more.

What is not run says why, and is still read by the program that would run it.
"""

# ruff: noqa: F811 - fixtures are imported

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import cutout_client
import cv2
import numpy as np
import pytest
import skimage.data
from clip_checkpoints import clip_folder  # noqa: F401
from conftest import RunningServer, run_server
from cutout_client import Client
from cutout_client.bridges.label_config import read_target
from cutout_client.video import VideoWriter
from cutout_gateway.settings import GatewaySettings
from documentation import BIN, ROOT, Block, Reader, blocks, check_command, documents, inline_commands, load_settings
from gateway_fixtures import GatewayThread
from grounding_dino_checkpoints import grounding_dino_folder  # noqa: F401
from language_model import KEY, MODEL, run_language_model
from PIL import Image
from sam3_checkpoints import sam3_folder  # noqa: F401
from stable_diffusion_checkpoints import sd1  # noqa: F401
from waiting import PATIENCE_S

from tools import free_port, require

# Blocks, by a line of theirs, that need more than the built-in model: they run on small checkpoints.
ON_MODELS = {
    "remote = client.segment_text(": "a detector that takes any words, and a classifier",
    "examples = [": "SAM 3",
    'client.segment_text("hall.jpg", "what would': "a language model",
    'client.analyze("street.jpg", ["a car"': "a classifier",
    "client.generate(": "a generator",
    "cutout segment cat.jpg --text cat ": "all of them",
    "-F concepts=cat": "a classifier",
    "-F 'phrases=which animal": "a language model",
    "http://127.0.0.1:8080/v1/generate": "a generator",
}
# Commands that are not run, by how they begin, and why.
NOT_RUN = {
    "make ": "builds, measures or tests for minutes; make itself says what it would do",
    "pip install ": "changes what is installed; its extras are compared with those that there are",
    "cutout serve": "does not end; the README's own is what the other examples run on",
    "cutout serve --profile": "downloads gigabytes",
    "cutout serve --gateway-": "does not end",
    "cutout serve --engine ray": "does not end; tests/test_ray.py has a cluster",
    "ray start": "does not end, either",
    "cutout models pull ": "downloads gigabytes",
    "cutout status --watch": "does not end",
    "npx openapi-typescript": "would be downloaded; tests/test_openapi_generators.py runs the one that is here",
}
# Blocks that are no code: what programs print.
OUTPUT = ("chelsea.jpg  451 x 300", "transformers, fp32 ", "300 requests, 1024 x 1024")
PHOTOGRAPHS = {
    "cat.jpg": skimage.data.chelsea,
    "table.jpg": skimage.data.coffee,
    "street.jpg": skimage.data.rocket,
    "hall.jpg": skimage.data.astronaut,
    "shelf.jpg": skimage.data.coffee,
    "harbour.jpg": lambda: skimage.data.rocket()[:200].repeat(3, 0).repeat(3, 1),
    "panorama.tif": skimage.data.chelsea,
    "photos/astronaut.jpg": skimage.data.astronaut,
    "photos/deep/coffee.jpg": skimage.data.coffee,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pictures that the documents name, and certificates."""
    for name, photograph in PHOTOGRAPHS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph()).save(path)
    table = cv2.resize(skimage.data.coffee(), (300, 200))
    with VideoWriter(tmp_path / "video.mp4") as writer:
        for number in range(4):
            writer.write(np.roll(table, 3 * number, axis=1))
    for name in ("ca.pem", "me.pem", "me.key", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """What the README's own lines install and start: addresses of the server and the gateway, on free ports."""
    ((install, start),) = [block.commands for block in blocks("README.md") if "cutout serve" in block.commands]
    check_install(install)
    ports = {name: str(free_port()) for name in ("CUTOUT_PORT", "CUTOUT_METRICS_PORT", "CUTOUT_GATEWAY_PORT")}
    address, gateway = f"localhost:{ports['CUTOUT_PORT']}", f"localhost:{ports['CUTOUT_GATEWAY_PORT']}"
    env = os.environ | ports | {"PATH": f"{BIN}:{os.environ['PATH']}", "CUTOUT_CLIENT_SERVER": address}
    quiet = {"cwd": tmp_path_factory.mktemp("plain"), "env": env, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(start.split(), **quiet)
    try:
        health = ["cutout", "health", "--wait", str(PATIENCE_S)]
        assert subprocess.run(health, env=env, timeout=2 * PATIENCE_S, check=False).returncode == 0
        ready = ["curl", "--retry-connrefused", "--retry", "99", "--fail", f"http://{gateway}/readyz"]
        assert subprocess.run(ready, env=env, timeout=PATIENCE_S, capture_output=True, check=False).returncode == 0
        yield address, gateway
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def equipped(clip_folder: Path, grounding_dino_folder: Path, sam3_folder: Path, sd1: Path) -> Iterator[tuple[str, str]]:
    """The same with small checkpoints for every task, and a language model."""
    checkpoints = {
        "grounding-dino": grounding_dino_folder,
        "clip": clip_folder,
        "stable-diffusion": sd1,
        "sam3": sam3_folder,
    }
    models = [{"name": name, "family": name, "checkpoint": str(folder)} for name, folder in checkpoints.items()]
    with run_language_model() as words:
        words.says((0, "shoe"), (0, "sock"))
        language = {"rewrite_url": words.url, "rewrite_model": MODEL, "rewrite_api_key": KEY}
        builtin = {"name": "builtin", "family": "builtin"}
        with (
            run_server(models=[builtin, *models], default_detector="grounding-dino", **language) as server,
            GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
        ):
            yield server.address, gateway.url.removeprefix("http://")


def check_install(command: str) -> None:
    """The extras of a `pip install` are those of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (extras,) = re.fullmatch(r"pip install '?\.(?:\[([\w,]+)\])?'?", command).groups()
    assert set((extras or "").split(",")) - {""} <= set(project["optional-dependencies"])


def is_output(block: Block) -> bool:
    return not block.language and block.text.startswith(OUTPUT)


def is_followed(path: str) -> bool:
    """Whether a document has blocks to run; tests/test_grpc_clients.py follows docs/grpc.md, with compilers at hand."""
    return path != "docs/grpc.md" and any(not is_output(block) for block in blocks(path))


def is_run(command: str) -> bool:
    """Whether a command of a shell block is run; a `cutout serve` with other flags would be, and fail."""
    return not any(command == known.strip() or command.startswith(known) for known in NOT_RUN if _whole(command, known))


def _whole(command: str, known: str) -> bool:
    return known != "cutout serve" or command == known


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in documents() if is_followed(path)])
def test_a_document_can_be_followed(path: str, folder: Path, request: pytest.FixtureRequest):
    """Its blocks, one after the other."""
    names: dict[str, object] = {}
    connected = "plain"
    for block in blocks(path):
        needs = "equipped" if any(line in block.text for line in ON_MODELS) else "plain"
        match block.language:
            case "python":
                if needs != connected and "client" in names:
                    names["client"].close()
                    names["client"] = Client(request.getfixturevalue(needs)[0])
                connected = needs
                Reader(folder, *request.getfixturevalue(needs), names).python(block)
            case "sh":
                for command in block.commands:
                    (check_install if command.startswith("pip ") else check_command)(command)
                if commands := [command for command in block.commands if is_run(command)]:
                    require("jq", "apt-get install jq")
                    require("curl", "apt-get install curl")
                    Reader(folder, *request.getfixturevalue(needs)).shell(commands)
            case "yaml":
                load_settings(block.text, folder)
            case "xml":  # A labelling interface of Label Studio's.
                read_target(block.text, ("BrushLabels", "PolygonLabels"))
            case "mermaid":
                pass  # A picture, which GitHub draws.
            case _:
                assert is_output(block), f"{block} has no language that could be run"


def test_the_clients_own_example(folder: Path, server: RunningServer):
    """What `help(cutout_client)` shows can be followed."""
    (example,) = re.findall(r"(?<=:\n\n)(?:    .*\n|\n)+", cutout_client.__doc__)
    names: dict[str, object] = {}
    Reader(folder, server.address, "", names).python(
        Block("client/cutout_client/__init__.py", 5, "python", textwrap.dedent(example))
    )
    assert names["found"].mask.shape == skimage.data.chelsea().shape[:2]


def test_commands_within_sentences(folder: Path):
    """Each is one that its program knows."""
    named = {command for path in documents() if path != "CHANGELOG.md" for command in inline_commands(path)}
    assert len(named) > 20
    load_settings("port: 6000\n", folder)  # cutout.yaml, which one of them names
    for command in sorted(named):
        if command.startswith("pip install '."):
            check_install(command)
        else:
            check_command(command)


def test_nothing_is_excused_in_vain():
    """Each reason above belongs to something that the documents still say."""
    every = [block for path in documents() for block in blocks(path)]
    texts = [block.text for block in every]
    commands = [command for block in every if block.language == "sh" for command in block.commands]
    assert all(any(known in text for text in texts) for known in (*ON_MODELS, *OUTPUT))
    assert all(any(command.startswith(known.strip()) for command in commands) for known in NOT_RUN)


EXAMPLES = {
    "quickstart.py": ("plain", ["hall.jpg"]),
    "asynchronous.py": ("plain", ["cat.jpg", "table.jpg", "photos/astronaut.jpg"]),
    "session.py": ("plain", ["table.jpg", "300,200", "460,60,0"]),
    "track.py": ("plain", ["video.mp4", "75,20,238,168"]),
    "analyze.py": ("equipped", ["street.jpg", "a market", "a car park"]),
    "curl.sh": ("plain", ["hall.jpg", "http://localhost:8080"]),
}


def test_every_example_is_run():
    """None is forgotten; `make demo` runs the demo on ports of its own, and `test_notebooks` the notebook."""
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_file()} == {
        *EXAMPLES,
        "demo.py",
        "demo_video.py",
        "notebook.ipynb",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(name: str, folder: Path, request: pytest.FixtureRequest):
    """It ends well, and says something, as written but for the ports."""
    server, arguments = EXAMPLES[name]
    reader = Reader(folder, *request.getfixturevalue(server))
    text = reader.here((ROOT / "examples" / name).read_text("utf-8"))
    script = folder / name
    script.write_text(text)
    program = sys.executable if name.endswith(".py") else "sh"
    assert reader.run([program, str(script), *map(reader.here, arguments)])


@pytest.mark.slow
def test_the_demo(folder: Path):
    """`make demo` shows everything and ends well."""
    require("curl", "apt-get install curl")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list((folder / "out").iterdir())
