"""What the page tells as code runs as it is, and gives what is on the screen."""

# ruff: noqa: F811 - fixtures are imported

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from google.protobuf import json_format
from page_fixtures import PAGE, Visit, browser, visiting  # noqa: F401
from playwright.sync_api import Browser, expect
from waiting import PATIENCE_S

from tools import require

pytestmark = pytest.mark.slow
KEY = "a-key-of-sixteen-letters"
NAME = "the cat's, 1.jpg"


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    with run_server(api_keys=[{"caller": "somebody", "key": KEY}]) as server:
        yield server


@pytest.fixture(scope="module", params=["a sample", "a file of one's own"])
def scene(request: pytest.FixtureRequest, browser: Browser, keyed: RunningServer) -> Iterator[Visit]:
    """Words, a box that was refined, clicks with other settings, everything, and a server that wants a key.

    Merged and counted for each click alone, as the page asks, not for all that share a request.
    """
    with (
        GatewayThread(GatewaySettings(server_address=keyed.address)) as gateway,
        visiting(browser, gateway.url) as visit,
    ):
        visit.page.locator("#key").fill(KEY)
        visit.page.keyboard.press("Enter")
        if request.param == "a sample":
            visit.open_sample()
        else:
            picture = (PAGE / "samples/cat.jpg").read_bytes()
            visit.page.locator("#file").set_input_files({"name": NAME, "mimeType": "image/jpeg", "buffer": picture})
            expect(visit.page.locator("#status")).to_contain_text("Ready")
        visit.find("cat face, face")
        visit.drag(60, 20, 400, 290)
        visit.click(30, 30, button="right")
        visit.page.locator("#more summary").click()
        visit.page.locator("[name=multimask]").check()
        visit.page.locator("[name=strategy]").select_option("STRATEGY_BEST")
        visit.page.locator("#new-object").click()
        visit.click(430, 20)
        visit.page.locator("[name=strategy]").select_option("STRATEGY_MERGE")
        visit.page.locator("[name=maxObjects]").fill("2")
        visit.page.locator("[name=tileSize]").fill("256")
        for place in ((100, 200), (300, 60)):
            visit.page.locator("#new-object").click()
            visit.click(*place)
        visit.page.locator("[name=tileSize]").fill("")  # of everything it would take many times as long
        visit.page.locator("[name=strategy]").select_option("")
        visit.page.get_by_role("button", name="Everything").click()
        visit.settle()
        visit.page.locator("#code summary").click()
        assert len(visit.objects) > 6
        yield visit


def code(scene: Visit, language: str, folder: Path) -> str:
    """What the page tells, copied by its button, in a folder that has the picture."""
    (folder / NAME).write_bytes((PAGE / "samples/cat.jpg").read_bytes())
    scene.page.locator(f"label:has([value={language}])").click()
    scene.page.locator("#copy").click()
    expect(scene.page.locator("#copied")).to_have_text("Copied.")
    return scene.page.evaluate("navigator.clipboard.readText()")


def run(folder: Path, *command: str) -> str:
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "CUTOUT_API_KEY": KEY}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def areas(scene: Visit) -> list[int]:
    return [area for _, area in scene.objects]


def test_curl(scene: Visit, tmp_path: Path):
    """Each command prints an answer of the API."""
    require("curl", "install curl")
    told = run(tmp_path, "sh", "-ec", code(scene, "curl", tmp_path))
    answers = [json.loads(line) for line in told.replace("}{", "}\n{").splitlines()]
    assert [each["area"] for answer in answers for each in answer["objects"]] == areas(scene)


def test_python(scene: Visit, tmp_path: Path):
    """Python without any package."""
    program = code(scene, "python", tmp_path)
    lines = run(tmp_path, sys.executable, "-I", "-c", program).splitlines()
    assert [int(re.findall(r"\} (\d+) \{", line)[0]) for line in lines] == areas(scene)


def test_javascript(scene: Visit, tmp_path: Path):
    """Node.js without any package."""
    node = require("node", "install Node.js")
    (tmp_path / "segment.mjs").write_text(code(scene, "javascript", tmp_path))
    told = run(tmp_path, node, "segment.mjs")
    assert [int(each) for each in re.findall(r"\} (\d+) \{", told)] == areas(scene)


def test_grpcurl(scene: Visit, tmp_path: Path, keyed: RunningServer):
    """What it pipes into grpcurl is a request of the method that it names, which gives the same."""
    program = code(scene, "grpcurl", tmp_path)
    if "curl -sSO" in program:
        run(tmp_path, "sh", "-ec", program[: program.index("{ printf")])
    found = []
    for piped, call in re.findall(r"^(\{ .*?; \}) \|\n(.*)$", program, re.MULTILINE):
        words = shlex.split(call)
        assert words[:4] == ["grpcurl", "-plaintext", "-H", "x-api-key: $CUTOUT_API_KEY"]
        assert words[4:6] == ["-d", "@"]
        assert words[6] == "127.0.0.1:50051"
        service, method = words[7].split("/")
        assert service == "cutout.v1.SegmentationService"
        request = json_format.Parse(run(tmp_path, "sh", "-ec", piped), getattr(pb2, f"{method}Request")())
        assert request.image.content == (PAGE / "samples/cat.jpg").read_bytes()
        with keyed.channel() as channel:
            call_it = getattr(Stubs.over(channel).segmentation, method)
            answer = call_it(request, metadata=[("x-api-key", KEY)], timeout=PATIENCE_S)
        found += [each.area for each in answer.segmentation.objects]
    assert found == areas(scene)
