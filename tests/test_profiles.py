"""From a word to models: profiles, known names, downloads at start, and `cutout models pull`."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import torch
from checkpoints import Sam2Files, sam2_files  # noqa: F401 - a fixture
from conftest import run_server
from cutout.v1 import model_service_pb2, model_service_pb2_grpc
from cutout_client.cli import main
from cutout_common.config import ConfigError
from cutout_server.catalogue import Catalogue
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.registry import FAMILIES
from cutout_server.settings import Settings
from cutout_server.types import Task
from cutout_server.zoo import KNOWN, PROFILES
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hub_server import run_hub
from test_process import start
from waiting import PATIENCE_S, wait_until


@pytest.mark.parametrize("profile", ["small", "quality"])
def test_a_profile_is_a_set_of_models(profile: str):
    """Its models are the defaults, the built-in one stays to be named, and others can be added."""
    extra = {"name": "mine", "family": "sam2", "checkpoint": "mine.pt"}
    settings = Settings(profile=profile, models=[extra])
    assert [model.name for model in settings.models] == [*PROFILES[profile], "mine", "builtin"]
    catalogue = Catalogue.of(settings)
    sam, dino, clip = PROFILES[profile]
    chosen = {task: catalogue.choose("", task, "x").name for task in (Task.SEGMENT, Task.DETECT, Task.CLASSIFY)}
    assert chosen == {Task.SEGMENT: sam, Task.DETECT: dino, Task.CLASSIFY: clip}


def test_a_model_that_is_given_takes_the_place_of_the_profiles():
    """Who has the file already says where."""
    settings = Settings(profile="small", models=[{"name": "sam2.1-tiny", "checkpoint": "here.pt"}])
    assert [model.name for model in settings.models].count("sam2.1-tiny") == 1
    assert Catalogue.of(settings).get("sam2.1-tiny").files().checkpoint == Path("here.pt")


def test_a_bare_name_is_a_known_model():
    """On the command line, in a list, and in YAML."""
    assert Settings.load(["--models", "sam2.1-tiny", "--models", "clip-vit-b-32"]).models[1].name == "clip-vit-b-32"
    assert Settings(models=["sam-vit-b"]).models[0].name == "sam-vit-b"


def test_an_unknown_name_is_refused_with_its_likes():
    """A slip of the pen is told from a model of one's own."""
    with pytest.raises(ConfigError, match=r"did you mean sam2\.1-tiny"):
        Catalogue.of(Settings(models=["sam2.1-tny"]))


def test_every_known_model_can_be_configured():
    """Its family exists and needs no more than what is known; sizes and licences are told."""
    catalogue = Catalogue.of(Settings(models=list(KNOWN)))
    for name, known in KNOWN.items():
        spec = catalogue.get(name)
        assert spec.family is FAMILIES[known.family]
        assert spec.description
        assert known.licence
        assert known.size_bytes > 1_000_000


def test_a_server_fetches_what_it_serves_before_it_says_ready(sam2_files: Sam2Files, tmp_path: Path):  # noqa: F811
    """Health is NOT_SERVING while the download lasts; then the model answers, and it stays when offline."""
    with run_hub() as hub:
        hub.gate.clear()
        hub.repos = {"models/me/sam": {"sam.pt": sam2_files.checkpoint.read_bytes()}}
        options = {
            "models": [
                {"name": "sam", "family": "sam2", "checkpoint": "hub:me/sam/sam.pt", "config": str(sam2_files.config)}
            ],
            "weights_dir": tmp_path,
            "hub_endpoint": hub.url,
        }
        with run_server(wait_until_serving=False, **options) as server, server.channel() as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            status = model_service_pb2_grpc.ModelServiceStub(channel).GetStatus(model_service_pb2.GetStatusRequest())
            assert check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert status.state == model_service_pb2.GetStatusResponse.STATE_STARTING
            hub.gate.set()
            assert _until_serving(channel)
    with run_server(**options | {"offline": True}) as server:
        assert server.app.status().devices[0].models["sam"] > 0


def _until_serving(channel: grpc.Channel) -> bool:
    watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    for each in watched:
        if each.status == health_pb2.HealthCheckResponse.SERVING:
            watched.cancel()
            return True
    return False


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    """Whoever installed the built-in model alone learns what to install, whether to download or to load."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    spec = Catalogue.of(Settings(profile="small")).get("clip-vit-b-32")
    for act in (spec.fetch, spec.files, lambda: spec.load("cpu")):
        with pytest.raises(FailedPreconditionError, match=r"pip install 'cutout-service\[server\]'"):
            act()


def test_sigterm_ends_a_download(tmp_path: Path):
    """A server that still downloads stops at once."""
    with run_hub() as hub:
        hub.gate.clear()
        hub.plain = {"/sam.pth": b"x" * 1000}
        source = f"{hub.url}/sam.pth#sha256={'0' * 64}"
        model = json.dumps({"name": "sam", "family": "sam2", "checkpoint": source})
        with start("--models", model, "--weights-dir", str(tmp_path)) as process:
            wait_until(lambda: process.events("downloading"))
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.wait(PATIENCE_S) == 0


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {os.environ['CUTOUT_TEST_TRACE']}",)


@pytest.mark.parametrize(
    ("family", "make"),
    [
        (family, make)
        for family in ("sam", "sam2", "grounding-dino-official")
        for make in ("malicious", "truncated", "empty", "page", "other", "text")
    ],
)
def test_a_checkpoint_that_is_none_is_refused(
    family: str,
    make: str,
    tmp_path: Path,
    sam2_files: Sam2Files,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    """Through the real loading: the error says what to do, and no code of the file is run."""
    trace = tmp_path / "trace"
    monkeypatch.setenv("CUTOUT_TEST_TRACE", str(trace))
    file = tmp_path / "model.pth"
    match make:
        case "malicious":
            torch.save({"model": _Malicious()}, file)
        case "truncated":
            file.write_bytes(sam2_files.checkpoint.read_bytes()[:5000])
        case "empty":
            file.touch()
        case "page":
            file.write_text("<!DOCTYPE html><title>Sign in</title>")
        case "other":
            torch.save({"model": {"weight": torch.zeros(3)}}, file)
        case _:
            file.write_bytes(pickle.dumps(_Malicious()))
    model = {"name": "m", "family": family, "checkpoint": str(file)}
    if family == "grounding-dino-official":
        model["companions"] = {"text_encoder": str(tmp_path)}
    spec = Catalogue.of(Settings(models=[model])).get("m")
    with pytest.raises(Exception, match=r"checkpoint|text_encoder") as caught:
        spec.load("cpu")
    assert type(caught.value).__name__ == "FailedPreconditionError"
    assert not trace.exists()


@pytest.mark.slow
def test_pulling_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A configured model is downloaded, its path printed; a second pull finds it; `--known` says that it is there."""
    with run_hub() as hub:
        hub.repos = {"models/facebook/sam2-hiera-tiny": {"sam2_hiera_tiny.pt": b"weights"}}
        monkeypatch.setenv("CUTOUT_HUB_ENDPOINT", hub.url)
        monkeypatch.setenv("CUTOUT_WEIGHTS_DIR", str(tmp_path))
        command = [sys.executable, "-m", "cutout_client", "models", "pull", "sam2-tiny", "--json"]
        first = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S).stdout
        assert Path(json.loads(first)[0]["checkpoint"]).read_bytes() == b"weights"

        monkeypatch.setattr("cutout_common.logs.configure", lambda *_: None)  # The log is that of all tests.

        def cutout(*arguments: str) -> tuple[int, str, str]:
            return main(["models", *arguments]), *capsys.readouterr()

        assert cutout("pull", "sam2-tiny", "--json") == (0, first, "")
        assert len(hub.gets) == 1
        (shown,) = json.loads(cutout("show", "sam2-tiny", "--known", "--json")[1])
        assert (shown["on_disk"], shown["licence"]) == (True, "Apache-2.0")
        known = cutout("list", "--known")[1]
        assert max(map(len, known.splitlines())) <= 80
        assert "paligemma2-3b-224" in known
        code, _, missing = cutout("pull", "clip-vit-b-32")
        assert code == 1
        assert "does not exist, or is private" in missing
        with pytest.raises(SystemExit, match="did you mean sam2-tiny"):
            cutout("pull", "sam2-tyni")
