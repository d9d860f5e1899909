"""Streams, uploads and bodies through the gateway: bounds, failures, clients that leave or read slowly."""

# ruff: noqa: F811 - fixtures are imported

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from cutout_gateway.settings import MIB
from echo_gateway import gateway, rest  # noqa: F401 - fixtures
from gateway_fixtures import EchoServer, GatewayThread
from waiting import PATIENCE_S, settled, wait_until


def test_ndjson(rest: httpx.Client):
    """A stream is one JSON object a line."""
    answer = rest.get("/v1/stream?messages=3&size=2")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["result"]["number"] for line in lines] == [0, 1, 2]
    assert rest.get("/v1/stream").content == b""


def test_a_stream_that_fails_at_once_is_an_error(rest: httpx.Client):
    """Before the first message a failure has its own HTTP status."""
    answer = rest.get("/v1/stream?messages=3&failAfter=0")
    assert (answer.status_code, answer.json()["code"]) == (409, 10)
    assert rest.get("/v1/raw:stream?messages=3&failAfter=0").status_code == 409


def test_a_stream_that_fails_later_ends_with_the_error(rest: httpx.Client):
    """After the first message a failure is the last line, and says how many came before."""
    answer = rest.get("/v1/stream?messages=3&failAfter=2")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [*lines[0], *lines[1], *lines[2]] == ["result", "result", "error"]
    message = "overtaken; the answer broke off after 2 of its parts"
    assert lines[2] == {"error": {"code": 10, "message": message, "details": []}}


def test_raw_streams(rest: httpx.Client):
    """Raw pieces follow each other without a delimiter, under the content type of the first."""
    answer = rest.get("/v1/raw:stream?messages=3&size=2")
    assert answer.headers["content-type"] == "image/x-first"
    assert answer.content == b"\x00\x00\x01\x01\x02\x02"


def test_a_raw_stream_that_fails_later_breaks_off(rest: httpx.Client):
    """A client can tell a part from the whole: the connection ends without the end of the body."""
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        rest.get("/v1/raw:stream?messages=3&size=2&failAfter=2")


def test_bodies_beyond_the_limit(rest: httpx.Client):
    """413 as a Status, whether Content-Length tells or the bytes do; the connection is answered, not reset."""
    big, huge = b"x" * (MIB + 1), b"x" * (2 * MIB + 1)
    for path, body in [("/v1/things", big), ("/v1/upload/n", huge), ("/v1/raw/n", big)]:
        for content in (body, iter([body[:1000], body[1000:]])):
            answer = rest.post(path, content=content)
            assert answer.status_code == 413, path
            assert answer.json()["details"][0]["reason"] == "TOO_LARGE"
    assert rest.post("/v1/raw/n", content=big[:MIB]).status_code == 200
    assert rest.post("/v1/upload/n", content=huge[: 2 * MIB]).status_code == 200


def test_a_client_that_asks_first_need_not_send(gateway: GatewayThread):
    """With `Expect: 100-continue` too large a body is refused before a byte of it is sent."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as client:
        client.sendall(
            b"POST /v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_an_early_answer_to_an_upload(rest: httpx.Client, gateway: GatewayThread, echo: EchoServer):
    """A server that refuses after the first message is heard, though the client goes on sending."""
    refused, refuse = threading.Event(), echo.special["Upload"]

    def watched(requests, context):
        context.add_callback(refused.set)
        return refuse(requests, context)

    echo.replace("Upload", watched)

    def body() -> Iterator[bytes]:
        yield b"x" * MIB
        # grpc.aio forgets a refusal that crosses a message on its way (it says INTERNAL then). On the gateway's one
        # connection to the server, the answer to a later call comes behind the refusal.
        assert refused.wait(PATIENCE_S)
        httpx.get(f"{gateway.url}/v1/things/a", timeout=PATIENCE_S)
        yield b"x" * MIB

    answer = rest.post("/v1/upload/n?note=refuse", content=body())
    assert answer.status_code == 403


def test_a_client_that_leaves_cancels_the_call(gateway: GatewayThread, echo: EchoServer):
    """The server is told when the client of a unary call closes its connection."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET /v1/sleep HTTP/1.1\r\nHost: x\r\n\r\n")
        assert echo.sleeping.wait(PATIENCE_S)
        assert not echo.cancelled.is_set()
    assert echo.cancelled.wait(PATIENCE_S)


def test_a_client_that_leaves_in_mid_upload_cancels_the_call(gateway: GatewayThread, echo: EchoServer):
    """An upload that breaks off is a cancelled call, not a short one."""
    arrived, ended, completed = threading.Event(), threading.Event(), threading.Event()

    def watched(requests, context):
        context.add_callback(ended.set)
        try:
            for _ in requests:
                arrived.set()
        except grpc.RpcError:  # It heard of the cancellation before the end of the messages.
            return
        if not ended.wait(PATIENCE_S):  # In the other order the messages just end, and the call next.
            completed.set()

    echo.replace("Upload", watched)
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"POST /v1/upload/n HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_500_000)
        assert arrived.wait(PATIENCE_S)
        assert not ended.is_set()
    assert ended.wait(PATIENCE_S)
    assert not completed.is_set()


def test_slow_readers_do_not_make_memory_grow(gateway: GatewayThread, echo: EchoServer):
    """A client that stops reading stops the server's stream: what waits is bounded, and flows on later."""
    size, messages = 100_000, 2_000
    request = f"GET /v1/stream?messages={messages}&size={size} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    before = resident_bytes()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(request.encode())
        wait_until(lambda: echo.sent > 0)
        held = settled(lambda: echo.sent)
        assert held < 300  # 30 MB at the very most of 200 MB: socket and HTTP/2 buffers
        assert resident_bytes() - before < 100 * MIB
        received = 0
        client.settimeout(PATIENCE_S)
        while received < 50 * MIB:
            received += len(client.recv(1 << 20))
    assert echo.sent > held
    assert echo.cancelled.wait(PATIENCE_S)  # the client left before the end


def resident_bytes() -> int:
    """Memory of this process, which holds the gateway and the server."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_answers_are_not_held_back(rest: httpx.Client, gateway: GatewayThread):
    """What is written goes out at once, not with the 40 milliseconds of a delayed acknowledgement."""
    rest.get("/v1/things/a")
    sockets = [each.transport.get_extra_info("socket") for each in gateway.server.server_state.connections]
    assert sockets
    assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)
