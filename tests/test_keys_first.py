"""Keys are looked at before bodies: a stranger's bytes are neither awaited nor read."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from conftest import RunningServer, run_server
from cutout_gateway.settings import MIB, GatewaySettings
from gateway_fixtures import GatewayThread
from waiting import PATIENCE_S

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_server(api_keys=[{"caller": "me", "key": KEY}]) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(server: RunningServer) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=server.address)) as running:
        yield running


def send_part(gateway: GatewayThread, path: str, *headers: str) -> tuple[int, dict[str, object]]:
    """What is answered to a request of which the headers and the beginning of the body are sent, and no more."""
    head = "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""))
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as connection:
        connection.sendall(head.encode() + b"ffff\r\n" + b"[" * 60_000)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("length", [f"Content-Length: {32 * MIB}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", ["/v1/segment:points", "/v1/segment:stream", "/v1/overlay", "/v1/images"])
def test_the_gateway_asks_for_the_key_before_it_reads(gateway: GatewayThread, path: str, length: str):
    """A long body is refused for want of a key as soon as its headers are there."""
    status, body = send_part(gateway, path, length)
    assert (status, body["details"][0]["reason"]) == (401, "API_KEY_INVALID")


def test_the_server_refuses_before_the_message(server: RunningServer):
    """A caller without a key is answered when its headers are there; of a message nothing is awaited."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_unary("/cutout.v1.SegmentationService/SegmentByBox")
        with pytest.raises(grpc.RpcError) as refused:
            call(_never(), timeout=PATIENCE_S)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def _never() -> Iterator[bytes]:
    """A message that does not come."""
    threading.Event().wait(PATIENCE_S)
    yield b""
