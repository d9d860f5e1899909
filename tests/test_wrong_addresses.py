"""Wrong addresses: what the clients, the command line and the gateway say of them."""

import asyncio
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import structlog
from client_fixtures import cutout, scripted_server
from conftest import RunningServer, run_server
from cutout_client import AsyncClient, Client, CutoutError, DeadlineError, UnavailableError, diagnosis
from cutout_client.cli import main
from cutout_common import channels, probe
from cutout_common.config import ConfigError
from cutout_gateway import link
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from waiting import PATIENCE_S, wait_until

from tools import require

PIXELS = np.zeros((4, 4, 3), np.uint8)
BOX = (0, 0, 2, 2)

BAD = {
    "": "there is nothing",
    " localhost:50051": "space",
    "http://localhost:8080": "web address, as the REST gateway has",
    "https://localhost:8080/v1": "TLS is turned on apart",
    "grpc://localhost:50051": "leave out what ends with ://",
    "localhost:50051,localhost": "it has no port",
    "localhost:50051,,localhost:50052": "there is nothing",
    "localhost:50051/v1": "has no path",
    "key@localhost:50051": "keys are given apart",
    "localhost": "it has no port",
    "[::1]": "it has no port",
    "dns:///localhost": "it has no port",
    ":50051": "it has no host",
    "::1:50051": r"brackets, \[::1\]:50051",
    "[::1:50051": "brackets",
    "localhost:": "no number from 1 to 65535",
    "localhost:0": "no number from 1 to 65535",
    "localhost:65536": "no number from 1 to 65535",
    "localhost:grpc": "no number from 1 to 65535",
}
GOOD = [
    "localhost:1",
    "example.org:65535",
    "10.0.0.1:50051",
    "[::1]:50051",
    "dns:localhost:50051",
    "dns:///localhost:50051",
    "dns://10.0.0.53/localhost:50051",
    "localhost:50051,10.0.0.2:50052,dns:///servers:50053",
    "ipv4:10.0.0.1:50051,10.0.0.2:50051",
    "ipv6:[::1]:50051",
    "unix:/run/cutout.sock",
    "unix:///run/cutout.sock",
    "unix-abstract:cutout",
    "xds:///cutout",
]


async def make_async(address: str) -> None:
    await AsyncClient(address).close()


@pytest.mark.parametrize(("address", "why"), BAD.items())
def test_addresses_of_no_use_are_refused(address: str, why: str, capsys: pytest.CaptureFixture[str]):
    """Before anything connects, by both clients, the command line (exit status 2) and the gateway's settings."""
    for make in (Client, lambda address: asyncio.run(make_async(address))):
        with pytest.raises(ValueError, match=f"^expected the gRPC server's host:port.*{why}"):
            make(address)
    with pytest.raises(ConfigError, match=f"server_address: .*{why}"):
        GatewaySettings.load(["--server-address", address])
    with pytest.raises(SystemExit) as ended:
        main(["health", "--server", address])
    assert ended.value.code == 2
    assert "expected the gRPC server's host:port" in capsys.readouterr().err


@pytest.mark.parametrize("address", GOOD)
def test_every_form_of_grpc_is_taken(address: str):
    """Names, addresses, lists and sockets, as gRPC writes them."""
    Client(address).close()
    assert GatewaySettings(server_address=address).server_address == address


@dataclass(frozen=True)
class Places:
    """What a wrong address may lead to."""

    server: str
    tls_server: str
    asking_server: str
    gateway: str
    metrics: str
    certificate: bytes


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    require("openssl", "Debian has it in the package openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    command += " -keyout key.pem -out cert.pem -addext subjectAltName=DNS:localhost"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    tls: dict[str, Any] = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    with ExitStack() as running:
        plain, secure, asking = (
            running.enter_context(run_server(host="localhost", **settings))
            for settings in ({}, tls, tls | {"tls_client_ca": folder / "cert.pem"})
        )
        gateway = running.enter_context(GatewayThread(GatewaySettings(server_address=plain.address)))
        yield Places(
            plain.address,
            secure.address,
            asking.address,
            f"127.0.0.1:{gateway.port}",
            f"127.0.0.1:{plain.app.metrics_port}",
            (folder / "cert.pem").read_bytes(),
        )


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch):
    """A busy machine has all the time to look at an address."""
    for module, name in ((probe, "STEP_S"), (diagnosis, "LIMIT_S"), (diagnosis, "LATE_LIMIT_S"), (link, "EXAMINE_S")):
        monkeypatch.setattr(module, name, PATIENCE_S)
    monkeypatch.setattr(channels, "RENEW_S", 0.2)  # so often a gateway looks after its connection


def ask(address: str, **settings: Any) -> None:
    with Client(address, retries=0, **settings) as client:
        client.health()


def ask_async(address: str, **settings: Any) -> None:
    async def run() -> None:
        async with AsyncClient(address, retries=0, **settings) as client:
            await client.health()

    asyncio.run(run())


WEB = "a web server answers there, such as the REST gateway; give the server's gRPC port"
WRONG = {
    "gateway": ("gateway", {}, WEB),
    "gateway by TLS": ("gateway", {"tls": True}, WEB),
    "metrics": ("metrics", {}, WEB),
    "plain to TLS": ("tls_server", {}, r"talks TLS; turn it on by tls=True \(--tls\)"),
    "TLS to plain": ("server", {"tls": True}, r"talks gRPC without TLS; leave tls=True \(--tls\) out"),
    "unknown authority": ("tls_server", {"tls": True}, "certificate is refused: self-signed certificate; root_cert"),
    "no certificate": ("asking_server", {"tls": True, "trusted": True}, "wants a client's certificate; give client_c"),
    "refused": ("127.0.0.1:1", {}, "nothing listens on port 1; start the server"),
    "refused by TLS": ("127.0.0.1:1", {"tls": True}, "nothing listens on port 1; start the server"),
    "unknown name": ("nowhere.invalid:50051", {}, "the name nowhere.invalid is not known"),
    "no socket": ("unix:/nowhere/cutout.sock", {}, "there is no socket /nowhere/cutout.sock"),
}


@pytest.mark.parametrize("asking", [ask, ask_async])
@pytest.mark.parametrize(("place", "settings", "found"), WRONG.values(), ids=WRONG)
@pytest.mark.usefixtures("patient")
def test_what_is_there_instead(
    places: Places, place: str, settings: dict[str, Any], found: str, asking: Callable[..., None]
):
    """The error names the address, what was found there, and what to do."""
    settings = dict(settings)
    if settings.pop("trusted", False):
        settings["root_certificates"] = places.certificate
    address = getattr(places, place, place)
    with pytest.raises(UnavailableError, match=f"^cannot reach {address}: .*{found}") as failed:
        asking(address, **settings)
    assert failed.value.request_id


@pytest.mark.usefixtures("patient")
def test_a_certificate_for_another_name(places: Places):
    """It says for which name the certificate does not hold."""
    address = places.tls_server.replace("localhost", "127.0.0.1")
    with pytest.raises(UnavailableError, match=r"certificate is refused: IP address mismatch.*127\.0\.0\.1"):
        ask(address, tls=True, root_certificates=places.certificate)


@pytest.mark.parametrize("asking", [ask, ask_async])
def test_what_never_answers(asking: Callable[..., None]):
    """A port that takes connections and says nothing, or a host that drops them, is told when time is up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineError, match=f"^no answer from {address} in time: nothing could be found there"):
            asking(address, timeout_s=0.1)


@pytest.mark.usefixtures("patient")
def test_a_slow_server_is_not_suspected(places: Places):
    """When a server is there and merely slow, nothing is said of its address."""
    with Client(places.server) as client, pytest.raises(DeadlineError) as late:
        client.segment_everything(np.zeros((600, 600, 3), np.uint8), timeout_s=0.001)
    assert "no answer from" not in str(late.value)


@pytest.mark.parametrize("method", ["stream", "session", "upload", "download"])
@pytest.mark.usefixtures("patient")
def test_every_kind_of_call_says_it(method: str):
    """Streams, sessions, uploads and downloads, of both clients."""
    arguments: dict[str, tuple[Any, ...]] = {"download": ("id",)}

    def use() -> None:
        with Client("127.0.0.1:1", retries=0) as client:
            answer = getattr(client, method)(*arguments.get(method, (PIXELS,)))
            answer.__enter__() if method == "session" else answer.result()

    async def use_async() -> None:
        async with AsyncClient("127.0.0.1:1", retries=0) as client:
            answer = getattr(client, method)(*arguments.get(method, (PIXELS,)))
            await (answer.__aenter__() if method == "session" else answer.result() if method == "stream" else answer)

    for using in (use, lambda: asyncio.run(use_async())):
        with pytest.raises(UnavailableError, match=r"^cannot reach 127\.0\.0\.1:1: nothing listens"):
            using()


def test_health_says_why(places: Places):
    """`cutout health` prints one word on stdout, and what was found on stderr."""
    done = cutout(places.gateway, "health", "--retries", "0", code=1)
    assert done.stdout == "unreachable\n"
    assert done.stderr.startswith(f"cutout: error: cannot reach {places.gateway}: a web server answers there")


GATEWAY_FINDS = {
    "another gateway": ("gateway", False, WEB),
    "refused": ("127.0.0.1:1", False, "nothing listens on port 1; start the server"),
    "plain to TLS": ("tls_server", False, "talks TLS; turn it on by server_tls_ca"),
    "TLS to plain": ("server", True, "talks gRPC without TLS; leave server_tls_ca out"),
    "no certificate": ("asking_server", True, "wants a client's certificate; give server_tls_cert and server_tls_key"),
}


@pytest.mark.parametrize(("place", "tls", "found"), GATEWAY_FINDS.values(), ids=GATEWAY_FINDS)
@pytest.mark.usefixtures("patient")
def test_the_gateway_logs_it(places: Places, tmp_path: Path, place: str, tls: bool, found: str):
    """Once, for whoever runs it; its own callers are told no address."""
    (tmp_path / "cert.pem").write_bytes(places.certificate)
    address = getattr(places, place, place)
    ca = tmp_path / "cert.pem" if tls else None
    settings = GatewaySettings(server_address=address, server_tls_ca=ca)
    with structlog.testing.capture_logs() as lines, GatewayThread(settings) as gateway:
        wait_until(lambda: [line for line in lines if line.get("server") == address])
        answer = httpx.get(f"{gateway.url}/v1/models", timeout=PATIENCE_S)
    (line,) = (line for line in lines if line.get("server") == address)
    assert line["log_level"] == "warning"
    assert re.fullmatch(f"cannot reach the server at {address}: .*{found}.*", line["event"])
    assert (answer.status_code, answer.json()["message"]) == (503, "the server cannot be reached")


@pytest.mark.usefixtures("patient")
def test_the_gateway_logs_that_the_server_answers_again():
    """So that the log says how long an outage was."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = GatewaySettings(server_address=f"127.0.0.1:{port}")
    with structlog.testing.capture_logs() as lines, GatewayThread(settings):
        wait_until(lambda: [line for line in lines if "nothing listens" in line["event"]])
        with run_server(port=port):
            wait_until(lambda: [line for line in lines if line["event"].endswith("answers again")])


@contextmanager
def http2_server(status: bytes) -> Iterator[str]:
    """Answers the first request by a status of HTTP/2 and nothing else."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def serve() -> None:
        connection = listener.accept()[0]
        with connection, connection.makefile("rb") as received:
            connection.sendall(frame(4, 0, 0, b""))
            received.read(24)
            while (head := received.read(9)) and received.read(int.from_bytes(head[:3], "big")) is not None:
                if head[3] == 1:
                    connection.sendall(frame(1, 5, int.from_bytes(head[5:9], "big"), status))
                    connection.shutdown(socket.SHUT_WR)  # upon which the client leaves

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("asking", [ask, ask_async])
def test_a_web_server_of_http2(asking: Callable[..., None]):
    """What speaks HTTP/2 and no gRPC, as web servers and proxies do, is named with its status."""
    not_found = bytes([0x8D])  # RFC 7541, appendix A: `:status: 404`
    with http2_server(not_found) as address, pytest.raises(CutoutError, match="404: it is a web server, or a proxy"):
        asking(address)


def test_what_a_server_says_itself_is_left_alone():
    """UNAVAILABLE of a server that is there keeps its own text, with details or without."""
    with scripted_server() as server, Client(server.address, retries=0) as client:
        server.failures = [(grpc.StatusCode.UNAVAILABLE, "back at noon", None)]
        with pytest.raises(UnavailableError, match=r"^back at noon"):
            client.segment_box(PIXELS, BOX)


@pytest.mark.usefixtures("patient")
def test_a_proxy_in_between(server: RunningServer, monkeypatch: pytest.MonkeyPatch):
    """Connections go through the environment's proxies; when such a connection fails, the error says so."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UnavailableError, match=r"gRPC goes through the proxy of \$http_proxy"):
        ask(server.address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ask(server.address)
