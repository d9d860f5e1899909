"""Bodies that take long to read: in processes of their own, so that nobody else waits for them."""

import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from cutout_gateway import request_reader
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import GatewaySettings
from cutout_gateway.transcode import Payload
from gateway_fixtures import EchoServer, GatewayThread, free_port
from waiting import PATIENCE_S, wait_until

# Near the bound on values; the JSON of each takes a second of one core.
CHILDREN = b'{"children":[%s]}' % b",".join([b"{}"] * 30_000)


@pytest.fixture(scope="module")
def gateway(shared_echo: EchoServer, echo_contract: Contract) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=shared_echo.address), echo_contract) as running:
        yield running


@pytest.fixture
def rest(gateway: GatewayThread) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        yield client


@pytest.mark.parametrize(
    "request_of",
    [
        {"content": CHILDREN},
        {"content": b'{"data":"%s"}' % (b"QUJD" * 4_000_000)},
        {"files": [("child", (None, b' {"tags":[%s]}' % b",".join([b'"a"'] * 60_000)))]},
        {"files": [("texts", (None, b"x"))] * 5_000},
    ],
    ids=["values", "base64", "form of JSON", "form of many parts"],
)
def test_others_are_answered_while_a_long_body_is_read(
    gateway: GatewayThread, rest: httpx.Client, request_of: dict[str, object]
):
    """Others get answer after answer while a body is read; read on the event loop, it would let none through."""
    rest.post("/v1/things", **request_of).raise_for_status()  # the processes run
    sent, answered = threading.Event(), threading.Event()
    others = 0

    def body() -> Iterator[bytes]:
        yield b""
        yield content
        sent.set()

    prepared = rest.build_request("POST", "/v1/things", **request_of)
    content = prepared.read()
    headers = {"content-type": prepared.headers.get("content-type", "application/json")}

    def post() -> int:
        answer = rest.post("/v1/things", content=body(), headers=headers)
        answered.set()
        return answer.status_code

    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as neighbour:
        long_one = pool.submit(post)
        sent.wait(PATIENCE_S)
        while not answered.is_set():
            assert neighbour.get("/healthz").status_code == 200
            others += 1
    assert long_one.result() == 200
    assert others >= 3


def test_a_reading_process_that_is_killed_is_told_and_replaced(shared_echo: EchoServer, echo_contract: Contract):
    """Whoever's body it read hears to try again; the next one is read by a new process."""
    others = set(multiprocessing.active_children())
    settings = GatewaySettings(server_address=shared_echo.address)
    with (
        GatewayThread(settings, echo_contract) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        rest.post("/v1/things", content=CHILDREN).raise_for_status()
        own = set(multiprocessing.active_children()) - others
        assert own
        for process in own:
            process.kill()
            process.join()
        statuses = [rest.post("/v1/things", content=CHILDREN).status_code for _ in range(2)]
    assert statuses == [503, 200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_reading_processes_end_with_the_gateway(number: signal.Signals, tmp_path: Path):
    """A gateway that stops, or is killed, leaves no process behind."""
    port = free_port()
    command = [sys.executable, "-m", "cutout_gateway", "--port", str(port), "--server-address", "127.0.0.1:1"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as rest:
            wait_until(lambda: _serves(rest))
            empty = b'{"boxes":[%s]}' % b",".join([b"{}"] * 5_000)
            assert rest.post("/v1/segment:box", content=empty).status_code == 503  # read, and no server to send it to
        children = psutil.Process(running.pid).children()
        assert children
        running.send_signal(number)
        running.wait(PATIENCE_S)
        wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))


def _serves(rest: httpx.Client) -> bool:
    try:
        return rest.get("/healthz").status_code == 200
    except httpx.ConnectError:
        return False


def test_a_form_of_very_many_boundaries_is_not_gone_through(monkeypatch: pytest.MonkeyPatch):
    """Whether it is long is told by a count: a look at each of a million would hold up everybody else for seconds."""
    looks: list[bytes] = []
    monkeypatch.setattr(request_reader, "json_sections", lambda data: looks.append(data) or iter([data]))
    many = Payload(b"--B\r\n" * 1_000_000, "multipart/form-data; boundary=B")
    assert not request_reader._is_cheap(many)
    assert not request_reader._has_few_parts(many)
    assert not looks
    few = Payload(b"--B\r\n" * 100, many.content_type)
    assert request_reader._is_cheap(few)
    assert looks
