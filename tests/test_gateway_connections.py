"""The life of a connection to the gateway: half-closed, left, idle. Raw sockets against the real gateway."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cutout_gateway import body, connection
from cutout_gateway.app import create_app
from cutout_gateway.descriptors import Contract
from cutout_gateway.protocol import FEW_BYTES
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import EchoServer, GatewayThread
from uvicorn.protocols.http.h11_impl import H11Protocol
from waiting import PATIENCE_S

SLEEP = b"GET /v1/sleep?name=slept HTTP/1.1\r\nHost: x\r\n\r\n"
THING = b"GET /v1/things/%s HTTP/1.1\r\nHost: x\r\n\r\n"
WHOLE = {
    "unary": THING % b"a",
    "HTTP/1.0": b"GET /v1/things/a HTTP/1.0\r\n\r\n",
    "body": b"POST /v1/raw/n HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "upload": b"POST /v1/upload/n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "stream": b"GET /v1/stream?messages=50&size=1000 HTTP/1.1\r\nHost: x\r\n\r\n",
    "page": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(scope="module")
def gateway(shared_echo: EchoServer, echo_contract: Contract) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=shared_echo.address), echo_contract) as running:
        yield running


@contextmanager
def connected(gateway: GatewayThread) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as client:
        yield client


def answer(client: socket.socket) -> bytes:
    """The body of an answer that went well; interim answers before it are skipped."""
    with http.client.HTTPResponse(client) as response:
        response.begin()
        assert response.status == 200
        return response.read()


@pytest.mark.parametrize("request_sent", WHOLE.values(), ids=WHOLE)
def test_a_half_closed_request_is_answered(gateway: GatewayThread, request_sent: bytes):
    """A client that ends its side behind its request gets the whole answer, and then the end of the connection."""
    with connected(gateway) as client:
        client.sendall(request_sent)
        client.shutdown(socket.SHUT_WR)
        assert answer(client)
        assert client.recv(1) == b""


def test_half_closed_behind_several_requests(gateway: GatewayThread):
    """Requests that were sent at once are answered one after the other; what is cut off behind them is not."""
    with connected(gateway) as client, client.makefile("rb") as received:
        client.sendall(b"".join(THING % name for name in (b"a", b"b", b"c")) + b"GET /v1/things/d HTT")
        client.shutdown(socket.SHUT_WR)
        answers = received.read()
    assert answers.count(b"HTTP/1.1 200") == 3
    assert all(b'"name":"%s"' % name in answers.replace(b" ", b"") for name in (b"a", b"b", b"c"))


@pytest.mark.parametrize("patience_s", [0.0, PATIENCE_S], ids=["asked whether it is there", "not asked"])
def test_half_closed_while_the_server_works(
    gateway: GatewayThread, echo: EchoServer, patience_s: float, monkeypatch: pytest.MonkeyPatch
):
    """However long the answer takes, it comes; before it there may be `100 Continue`, which clients skip."""
    monkeypatch.setattr(connection, "PATIENCE_S", patience_s)
    began, go_on = threading.Event(), threading.Event()

    def work(request: Any, _: Any) -> Any:
        began.set()
        assert go_on.wait(PATIENCE_S)
        return request

    echo.replace("Sleep", work)
    with connected(gateway) as client:
        client.sendall(SLEEP)
        assert began.wait(PATIENCE_S)
        client.shutdown(socket.SHUT_WR)
        if patience_s == 0:
            interim = b"HTTP/1.1 100 Continue\r\n\r\n"
            assert client.recv(len(interim), socket.MSG_WAITALL) == interim
            assert client.recv(len(interim), socket.MSG_WAITALL) == interim
        go_on.set()
        assert b"slept" in answer(client)


def test_leaving_right_behind_the_request_cancels_the_call(gateway: GatewayThread, echo: EchoServer):
    """A client that is gone is told from one that only ended its side, though both look the same at first."""
    with connected(gateway) as client:
        client.sendall(SLEEP)
    assert echo.cancelled.wait(PATIENCE_S)


def test_half_closed_in_mid_request_is_left(gateway: GatewayThread):
    """A request that can no longer become whole ends its connection at once."""
    with connected(gateway) as client:
        client.sendall(b"POST /v1/raw/n HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"], ids=["sends", "asks first"])
def test_a_body_without_an_end_does_not_keep_its_connection(
    gateway: GatewayThread, expects: bytes, monkeypatch: pytest.MonkeyPatch
):
    """Once it is refused, the rest of it is awaited for a short time, and then the connection ends."""
    monkeypatch.setattr(body, "LINGER_S", 0.2)
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%s\r\n" % expects
    with connected(gateway) as client, http.client.HTTPResponse(client) as response:
        client.sendall(head if expects else head + b"1\r\nx\r\n")
        response.begin()
        assert (response.status, bool(response.read())) == (404, True)
        assert client.recv(1) == b""


def test_idle_connections_are_kept_as_long_as_the_setting_says(echo: EchoServer, echo_contract: Contract):
    """They end after `keep_alive_s`; by default that is longer than the minute that load balancers keep them."""
    settings = GatewaySettings(server_address=echo.address)
    assert connection.Serving(create_app(settings, echo_contract), settings).timeout_keep_alive == 75
    settings = GatewaySettings(server_address=echo.address, keep_alive_s=1)
    with GatewayThread(settings, echo_contract) as gateway, connected(gateway) as client:
        for _ in range(2):
            client.sendall(THING % b"a")
            assert answer(client)
        assert client.recv(1) == b""


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_body_of_very_many_chunks_is_taken_in_little_by_little(
    gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch, *, half_closed: bool
):
    """All of it arrives, and others have their turn after so many lines of it, though the client has ended its side."""
    taken: list[int] = []
    take = H11Protocol.data_received

    def note(protocol: H11Protocol, data: bytes) -> None:
        taken.append(data.count(b"\r\n"))
        take(protocol, data)

    monkeypatch.setattr(H11Protocol, "data_received", note)
    count = 40_000
    body = b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    head = b"POST /v1/upload/n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with connected(gateway) as client:
        client.sendall(head + body)
        if half_closed:
            client.shutdown(socket.SHUT_WR)
        texts = json.loads(answer(client))["texts"]
    assert sum(json.loads(text)[3] for text in texts) == count
    assert sum(taken) > count
    assert max(taken) <= FEW_BYTES
