"""Pings of a raw HTTP/2 client: at a usual pace they keep idle sessions, a flood ends the connection."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import run_server
from cutout_common import channels
from cutout_gateway import link
from cutout_server.settings import Settings
from waiting import PATIENCE_S

PING, GOAWAY, HEADERS, SETTINGS = 6, 7, 1, 4
ACK, END_HEADERS = 1, 4
ENHANCE_YOUR_CALM = 11

CALLS = pytest.mark.parametrize("call", [True, False], ids=["idle session", "no call"])


class RawClient:
    """Speaks just enough HTTP/2 (RFC 9113) to open a call and to ping when it likes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = connection.makefile("rb")
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(SETTINGS, 0, 0, b"")

    def open_session(self) -> None:
        """Begins SegmentSession and says nothing in it."""
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": b"/cutout.v1.SegmentationService/SegmentSession",
            b":authority": b"x",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
        }
        # RFC 7541, 6.2.2: literal fields, not indexed, with new names.
        block = b"".join(bytes([0, len(k)]) + k + bytes([len(v)]) + v for k, v in fields.items())
        self._send(HEADERS, END_HEADERS, 1, block)

    def ping(self, times: int = 1) -> None:
        """Sends pings without a pause, all at once: the connection may be over before a second write."""
        self._connection.sendall(times * self._frame(PING, 0, 0, bytes(8)))

    def answer(self) -> int | None:
        """Waits for what pings are answered by: PING's number, or the error code of GOAWAY; None at the end."""
        for kind, flags, payload in self.frames():
            if kind == GOAWAY:
                return int.from_bytes(payload[4:8], "big")
            if kind == PING and flags & ACK:
                return PING
        return None

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """What the server sends: kind, flags and payload of each frame."""
        while head := self._received.read(9):
            yield head[3], head[4], self._received.read(int.from_bytes(head[:3], "big"))

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._connection.sendall(self._frame(kind, flags, stream, payload))

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@contextmanager
def raw_client(min_ping_interval_s: float, *, call: bool) -> Iterator[RawClient]:
    with run_server(min_ping_interval_s=min_ping_interval_s) as server:
        host, port = server.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            client = RawClient(connection)
            if call:
                client.open_session()
            yield client


@CALLS
def test_pings_within_the_setting_live(call: bool):
    """Pings that keep the interval are answered as long as they come; by gRPC's own bounds the fourth one ends all."""
    with raw_client(0.1, call=call) as client:
        for _ in range(8):
            client.ping()
            assert client.answer() == PING
            time.sleep(0.15)  # from the answer on, so that the server cannot see them closer together


@CALLS
def test_a_flood_of_pings_ends_the_connection(call: bool):
    """Pings without a pause are answered by GOAWAY, the reason with it."""
    with raw_client(5.0, call=call) as client:
        client.ping(20)
        while (answer := client.answer()) == PING:  # those that were read at once are answered, too
            pass
        assert answer == ENHANCE_YOUR_CALM


def test_the_defaults_fit_together():
    """By default pings every 10 s live, as often as Go and Java can; so do those of our own ends at any setting."""
    assert Settings().min_ping_interval_s <= 10
    with pytest.raises(ValueError, match="min_ping_interval_s"):
        Settings(min_ping_interval_s=channels.OFTEN_S + 1)
    assert dict(link.OPTIONS)["grpc.keepalive_time_ms"] == channels.PING_S * 1000
    assert dict(channels.OF_MANY)["grpc.keepalive_time_ms"] == channels.OFTEN_S * 1000
