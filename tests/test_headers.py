"""Headers of a call are bounded, in bytes and number, and those of ordinary callers pass every time."""

import socket
from collections.abc import Iterator

import grpc
import pytest
from conftest import RunningServer, run_server
from cutout_server import listener
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import PATIENCE_S

TRACE = [("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("tracestate", "a=" + "b" * 500)]
USUAL = [*TRACE, ("baggage", "c=" + "d" * 4_000), ("x-api-key", "e" * 64), ("x-cutout-image-key", "f" * 64)]

# HTTP/2: https://www.rfc-editor.org/rfc/rfc9113#section-6. A client's first words, and two frames.
FIRST = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
ACKNOWLEDGED = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
PING, PONG = (bytes([0, 0, 8, 6, flags, 0, 0, 0, 0]) + b"question" for flags in (0, 1))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_server() as running:
        yield running


def answered(server: RunningServer, metadata: list[tuple[str, str]]) -> str:
    """How a call with such headers ends."""
    with server.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            health.Check(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
    return "OK"


@pytest.mark.parametrize("more", [0, 5_000, 9_000])
def test_as_many_bytes_as_the_setting_says(server: RunningServer, more: int):
    """By its own bound gRPC would refuse some from 8 KiB on, by chance."""
    assert {answered(server, [*USUAL, ("x-more", "g" * more)]) for _ in range(20)} == {"OK"}


def test_more_bytes(server: RunningServer):
    """They are refused, every time, and told by how much they are too many."""
    refused = {answered(server, [*USUAL, ("x-more", "g" * 14_000)]) for _ in range(20)}
    assert [answer for answer in refused if not answer.startswith("RESOURCE_EXHAUSTED")] == []


def test_more_headers_than_there_may_be(server: RunningServer):
    """Short ones take more memory than their letters."""
    many = [(f"a{number}", "") for number in range(140)]
    assert answered(server, many).startswith("RESOURCE_EXHAUSTED a call may have at most 128 headers, got 14")


def test_a_client_that_does_not_acknowledge_the_bounds(monkeypatch: pytest.MonkeyPatch):
    """It is not held to them, so it is given up; one that acknowledges them stays."""
    monkeypatch.setattr(listener, "ACKNOWLEDGE_MS", 1_000)
    with run_server() as server:
        host, _, port = server.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), PATIENCE_S) as does,
            socket.create_connection((host, int(port)), PATIENCE_S) as does_not,
        ):
            does.sendall(FIRST)
            assert does.recv(4096)  # the bounds
            does.sendall(ACKNOWLEDGED)
            does_not.sendall(FIRST)
            while does_not.recv(4096):
                pass
            does.sendall(PING)
            heard = b""
            while PONG not in heard:
                heard += (more := does.recv(4096))
                assert more
