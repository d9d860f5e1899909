"""Slow and many connections: each has a bounded time, there is a bounded number, and the others are served."""

import contextlib
import http.client
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cutout_common.pace import Pace
from cutout_gateway import body
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from waiting import PATIENCE_S, wait_until

NOWHERE = "127.0.0.1:1"


@contextlib.contextmanager
def gateway(**settings: Any) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=NOWHERE, **settings)) as running:
        yield running


def connect(running: GatewayThread) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), PATIENCE_S)


def answer(connection: socket.socket) -> tuple[int, str]:
    """HTTP status and reason of an answer after which the connection ends."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    reason = json.loads(response.read())["details"][0]["reason"]
    assert connection.recv(1) == b""
    return response.status, reason


@pytest.fixture(autouse=True)
def lingers_briefly(monkeypatch: pytest.MonkeyPatch):
    """What still comes behind a refusal is dropped for less than seconds, of which each test would wait for the end."""
    monkeypatch.setattr(body, "LINGER_S", 0.2)


@pytest.mark.parametrize("before", ["", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
def test_headers_that_do_not_end_are_given_up(before: str):
    """However many bytes come meanwhile, on a new connection and on one that was in use."""
    with gateway(headers_timeout_s=0.5) as running, connect(running) as slow:
        if before:
            slow.sendall(before.encode())
            first = http.client.HTTPResponse(slow)
            first.begin()
            assert first.read()
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        slow.settimeout(0.05)
        line = 0
        while True:
            with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
                slow.sendall(b"x-%d: 1\r\n" % line)
                if slow.recv(1, socket.MSG_PEEK):
                    break
            line += 1
        slow.settimeout(PATIENCE_S)
        assert answer(slow) == (408, "REQUEST_TOO_SLOW")


def test_a_connection_that_says_nothing_is_closed():
    """Without a word, as nothing was asked; one whose request is being answered stays."""
    with gateway(headers_timeout_s=0.2) as running, connect(running) as silent:
        assert silent.recv(1) == b""


def test_a_body_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """A caller who announces more than it sends hears why; others are served meanwhile."""
    monkeypatch.setattr(body, "GRACE_S", 0.5)
    head = b"POST /v1/segment:box HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{"
    with gateway(min_body_bytes_per_s=10_000) as running, connect(running) as slow:
        slow.sendall(head)
        assert httpx.get(f"{running.url}/healthz", timeout=PATIENCE_S).status_code == 200
        assert answer(slow) == (408, "REQUEST_TOO_SLOW")


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_client"])
def test_one_connection_too_many_is_told(limit: str):
    """It hears so at once and can come back; those that are there are served, and one that ends makes room."""
    with gateway(**{limit: 3}) as running, contextlib.ExitStack() as stack:
        there = [stack.enter_context(connect(running)) for _ in range(3)]
        for connection in there:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 200
        with connect(running) as one_more:
            assert answer(one_more) == (503, "TOO_MANY_CONNECTIONS")
        there[0].close()

        def served() -> bool:
            return httpx.get(f"{running.url}/healthz", timeout=PATIENCE_S).status_code == 200

        wait_until(served)


def test_one_connection_too_many_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch):
    """By the pace at which connections end, which is watched."""
    given_back = []
    monkeypatch.setattr(Pace, "given_back", lambda _, held_s, in_use: given_back.append(in_use))
    monkeypatch.setattr(Pace, "delay_s", lambda _: 6.5)
    with gateway(max_connections=1) as running:
        with connect(running), connect(running) as one_more:
            response = http.client.HTTPResponse(one_more)
            response.begin()
            assert response.headers["retry-after"] == "7"
        wait_until(lambda: given_back == [1])  # Whoever was turned away had none to give.


def test_the_bound_on_open_files_is_raised_for_the_connections():
    """A system that gives programs few files by default still lets as many connections in as the settings say."""
    code = (
        "import resource; from cutout_gateway.bounded import allow_files;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]));"
        "allow_files(500); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(shown) == (564 if hard == resource.RLIM_INFINITY else min(564, hard))
