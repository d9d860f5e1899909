"""`python -m cutout_gateway` as a program: settings, the line that tells the port, TLS, logs, signals."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from certificates import self_signed
from cutout_common import __version__
from cutout_common.commit import commit
from cutout_common.config import ConfigError
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import EchoServer
from waiting import PATIENCE_S, wait_until

from tools import free_port


class Program:
    """The running program.

    Attributes:
        url: Where it said that it listens.
        lines: What it logged so far.
    """

    def __init__(self, *args: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cutout_gateway", *args],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.lines: list[dict[str, Any]] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        wait_until(lambda: bool(self.events("gateway listening")) or self.process.poll() is not None)
        [ready] = self.events("gateway listening")
        self.port = ready["port"]
        self.url = ready["event"].removeprefix("gateway listening on ")

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(json.loads(line) if line.startswith("{") else {"event": line.strip()})
        self.process.stderr.close()

    def events(self, beginning: str) -> list[dict[str, Any]]:
        """The logged events whose text begins so."""
        return [line for line in self.lines if line["event"].startswith(beginning)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.thread.join(PATIENCE_S)
        return code


@contextlib.contextmanager
def running(*args: str, **environment: str) -> Iterator[Program]:
    program = Program(*args, **environment)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            assert program.stop() == 0


@pytest.fixture(scope="module")
def models() -> Iterator[EchoServer]:
    """A server that echoes by Cutout's own contract."""
    server = EchoServer(Contract.load())
    yield server
    server.stop()


def test_flags_environment_file_and_logs(models: EchoServer, tmp_path: Path):
    """Flag beats environment beats file; one line tells the port; every request but a good probe is a line in JSON."""
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump({"max_body_bytes": 1024, "port": 1, "server_address": "127.0.0.1:1"}))
    environment = {"CUTOUT_GATEWAY_SERVER_ADDRESS": models.address, "CUTOUT_GATEWAY_CONFIG": str(file)}
    with running("--port", "0", **environment) as program:
        assert program.url == f"http://127.0.0.1:{program.port}"
        [ready] = program.events("gateway listening")
        assert (ready["version"], ready["commit"]) == (__version__, commit())
        answer = httpx.get(f"{program.url}/v1/models/sam?x=1", headers={"x-request-id": "my-id"}, timeout=PATIENCE_S)
        assert answer.status_code == 400
        assert httpx.get(f"{program.url}/healthz", timeout=PATIENCE_S).status_code == 200
        assert httpx.post(f"{program.url}/v1/segment:text", content=b" " * 1025, timeout=PATIENCE_S).status_code == 413
        wait_until(lambda: len(program.events("request")) == 2)
        line = program.events("request")[0]
        assert line.pop("ms") >= 0
        assert line.pop("timestamp")
        assert line == {
            "event": "request",
            "level": "info",
            "request_id": "my-id",
            "method": "GET",
            "route": "/v1/models/{name}",
            "status": 400,
            "client": "127.0.0.1",
        }


def test_console_logs_and_levels():
    """The form and the least level of the log are settings."""
    for level, expected in [("info", "gateway listening on http://127.0.0.1:"), ("error", "")]:
        port = free_port()
        flags = ["--port", str(port), "--log-format", "console", "--log-level", level]
        command = [sys.executable, "-m", "cutout_gateway", *flags]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda port=port: _is_healthy(port))
            process.terminate()
            logged = process.communicate(timeout=PATIENCE_S)[1]
        assert expected in logged
        assert not logged.startswith("{")
        assert bool(logged) == bool(expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_accepted_requests_finish(number: int, tmp_path: Path):
    """SIGTERM stops listening at once, answers what was accepted, and exits with 0."""
    server = EchoServer(Contract.load())
    began, go_on = threading.Event(), threading.Event()

    def slow(request: Any, context: grpc.ServicerContext) -> Any:
        began.set()
        go_on.wait(PATIENCE_S)
        return server.answer("GetStatus", version="late")

    server.replace("GetStatus", slow)
    with running("--port", "0", "--server-address", server.address) as program:
        answers: list[httpx.Response] = []
        caller = threading.Thread(
            target=lambda: answers.append(httpx.get(f"{program.url}/v1/status", timeout=PATIENCE_S))
        )
        caller.start()
        assert began.wait(PATIENCE_S)
        program.process.send_signal(number)
        wait_until(lambda: not _listens(program.port))
        go_on.set()
        caller.join(PATIENCE_S)
        assert answers[0].json()["version"] == "late"
        assert program.process.wait(PATIENCE_S) == 0
    server.stop()


def test_the_drain_is_bounded():
    """A request that does not end is cut off after `drain_s`, and its call cancelled."""
    server = EchoServer(Contract.load())
    began, cancelled = threading.Event(), threading.Event()

    def endless(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(cancelled.set)
        began.set()
        cancelled.wait(PATIENCE_S)
        return request

    server.replace("GetStatus", endless)
    with running("--port", "0", "--server-address", server.address, "--drain-s", "1") as program:
        with socket.create_connection(("127.0.0.1", program.port)) as client:
            client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
            assert began.wait(PATIENCE_S)
            assert program.stop() == 0
        assert cancelled.wait(PATIENCE_S)
    server.stop()


def _is_healthy(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_S).status_code == 200
    return False


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S):
        return True
    return False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throwaway authority's own certificate for localhost."""
    directory = tmp_path_factory.mktemp("tls")
    self_signed(directory)
    return directory


def test_tls_on_both_sides(certificates: Path):
    """HTTPS to the clients; to the server TLS with a certificate of its own."""
    cert, key = certificates / "cert.pem", certificates / "key.pem"
    server = EchoServer(Contract.load())
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())], cert.read_bytes(), require_client_auth=True
    )
    server.replace("ListModels", lambda *_: server.answer("ListModels", models=[{"name": "m"}]))
    address = server.serve_also(credentials)
    flags = {"port": "0", "server-address": address, "tls-cert": str(cert), "tls-key": str(key)}
    flags |= {"server-tls-ca": str(cert), "server-tls-cert": str(cert), "server-tls-key": str(key)}
    with running(*[part for name, value in flags.items() for part in (f"--{name}", value)]) as program:
        assert program.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        answer = httpx.get(f"{program.url}/v1/models", verify=context, timeout=PATIENCE_S)
        assert answer.json()["models"][0]["name"] == "m"
    server.stop()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--port", "70000"], "port"),
        (["--tls-cert", __file__], "tls_cert and tls_key"),
        (["--tls-cert", "/nowhere.pem", "--tls-key", __file__], "tls_cert: .*nowhere.pem"),
        (["--server-tls-ca", "/nowhere.pem"], "server_tls_ca: .*nowhere.pem"),
        (["--server-tls-cert", __file__, "--server-tls-key", __file__], "server_tls_ca"),
        (["--server-tls-key", __file__], "server_tls_cert and server_tls_key"),
        (["--max-body-bytes", "5"], "max_body_bytes"),
        (["--cors-origins", "https://a.example/path"], "cors_origins"),
        (["--cors-origins", "a.example"], "cors_origins"),
        (["--log-level", "loud"], "log_level"),
        (["--config", "/nowhere.yaml"], "does not exist"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(flags: list[str], text: str):
    """A wrong setting is named before anything starts."""
    with pytest.raises(ConfigError, match=text):
        GatewaySettings.load(flags)


@pytest.mark.slow
def test_the_program_explains_what_it_refuses(tmp_path: Path):
    """Exit code 2 and one line: a wrong setting, a taken port, a TLS file that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        missing = str(tmp_path / "missing.pem")
        for flags, text in [
            (["--drain-s", "0"], "drain_s"),
            (["--port", str(taken.getsockname()[1])], "cannot listen on 127.0.0.1:"),
            (["--port", "0", "--tls-cert", missing, "--tls-key", missing], "tls_cert"),
        ]:
            command = [sys.executable, "-m", "cutout_gateway", *flags]
            result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
            assert result.returncode == 2, result.stderr
            assert text in result.stderr
            assert result.stderr.count("\n") == 1


def test_the_gateway_knows_neither_server_nor_messages():
    """All that the program loads is its own: nothing of the server, no generated message, no numpy, no torch."""
    code = "import sys, cutout_gateway.__main__ as m; m.create_app(m.GatewaySettings()); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cutout_gateway.app" in loaded
    strangers = ("cutout_server", "cutout_client", "numpy", "torch")
    assert [name for name in loaded if name.startswith(strangers) or re.fullmatch(r"cutout\.v1\..*_pb2", name)] == []


def test_settings_can_be_printed_and_read_again(tmp_path: Path):
    """The YAML form of the settings in force is a settings file."""
    settings = GatewaySettings.load(["--cors-origins", "https://a.example,https://b.example:8443", "--port", "0"])
    file = tmp_path / "settings.yaml"
    file.write_text(settings.to_yaml())
    assert GatewaySettings.load(["--config", str(file)]) == settings
    assert settings.cors_origins == ("https://a.example", "https://b.example:8443")
