"""Frames, headers and messages that cost their sender little: everybody else is served, and memory stays bounded."""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

import grpc
import pytest
from waiting import PATIENCE_S

from adversarial.attack import attacked
from adversarial.good_caller import GoodCaller
from adversarial.stack import BAD, Stack

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
# HTTP/2: https://www.rfc-editor.org/rfc/rfc9113#section-6 and its headers: https://www.rfc-editor.org/rfc/rfc7541#section-6.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, CONTINUATION = 1, 3, 4, 9
END_HEADERS = 4
MASKS = b"/cutout.v1.SegmentationService/SegmentByBox"
WATCH = b"/grpc.health.v1.Health/Watch"
# So long one attack lasts.
ATTACK_S = 1.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header in plain letters."""
    return b"\0" + b"".join(length(text) + text for text in (name, value))


def length(text: bytes) -> bytes:
    """That of a string: seven bits, and more bytes if they do not do."""
    if len(text) < 127:
        return bytes([len(text)])
    left = len(text) - 127
    return bytes([127, left % 128 | 128, left // 128])


def request(path: bytes = MASKS) -> bytes:
    """The headers of a call."""
    headers = {":method": b"POST", ":scheme": b"http", ":path": path, ":authority": b"x", "te": b"trailers"}
    headers |= {"content-type": b"application/grpc", "x-api-key": BAD.encode()}
    return b"".join(literal(name.encode(), value) for name, value in headers.items())


def sent(stack: Stack, beginning: bytes, again: Callable[[int], bytes]) -> str:
    """Sends frames as fast as they are taken; how the connection did."""
    host, _, port = stack.address.rpartition(":")
    end = time.monotonic() + ATTACK_S
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        try:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + beginning)
            connection.setblocking(False)
            left, turn = memoryview(b""), 0
            while time.monotonic() < end:
                with suppress(BlockingIOError):
                    if not connection.recv(MIB):
                        return "closed"
                if not left:
                    left, turn = memoryview(again(turn)), turn + 1
                try:
                    left = left[connection.send(left) :]
                except BlockingIOError:
                    time.sleep(0.001)
        except OSError:
            return "closed"
    return "taken"


def opened_and_left(stack: Stack, path: bytes) -> str:
    """Hundreds of calls, each ended by the next frame (CVE-2023-44487)."""
    cancel = struct.pack(">I", 8)

    def calls(turn: int) -> bytes:
        numbers = range(200 * turn + 1, 200 * (turn + 1), 2)
        return b"".join(
            frame(HEADERS, END_HEADERS, n, request(path)) + frame(RST_STREAM, 0, n, cancel) for n in numbers
        )

    return sent(stack, b"", calls)


def endless_headers(stack: Stack) -> str:
    """Of one call."""
    header = literal(b"b", b"y" * 16_000)
    return sent(stack, frame(HEADERS, 0, 1, request()), lambda _: frame(CONTINUATION, 0, 1, header) * 8)


@pytest.mark.parametrize(
    "attack",
    [
        lambda stack: opened_and_left(stack, MASKS),
        lambda stack: opened_and_left(stack, WATCH),
        endless_headers,
    ],
    ids=["calls that are left", "Watch that is left", "endless headers"],
)
def test_frames(stack: Stack, good_caller: GoodCaller, attack: Callable[[Stack], str]):
    """Nobody else's call is dropped for them, though the server has hundreds to look at."""
    with stack.watched() as peak, attacked(lambda: attack(stack), callers=2):
        good_caller.is_served(1)
    assert peak.grown_bytes < 512 * MIB
    assert not stack.server.events("ExecuteBatchError")  # A traceback for each call that leaves would fill the log.


@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_messages_that_unfold(stack: Stack, good_caller: GoodCaller, how: grpc.Compression):
    """A quarter of a megabyte that becomes 256 of them is given up on the way."""
    bomb = bytes(256 * MIB)
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]

    def send() -> str:
        with grpc.insecure_channel(stack.address, options, how) as channel:
            call = channel.stream_stream(MASKS.decode())
            with pytest.raises(grpc.RpcError) as refused:
                list(call(iter([bomb]), metadata=(("x-api-key", BAD),), timeout=PATIENCE_S))
            return refused.value.code().name

    with stack.watched() as peak, attacked(send, callers=2) as answers:
        good_caller.is_served(1)
    assert set(answers) == {"RESOURCE_EXHAUSTED"}
    assert peak.grown_bytes < 4 * 64 * MIB


def test_requests_without_end_on_one_connection(stack: Stack, good_caller: GoodCaller):
    """Pipelined over HTTP/1.1, faster than anybody reads the answers."""
    many = (f"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Api-Key: {BAD}\r\n\r\n".encode()) * 20_000

    def send() -> str:
        with socket.create_connection(("127.0.0.1", stack.gateway_port), ATTACK_S) as connection:
            try:
                connection.sendall(many)
            except TimeoutError:
                return "held back"
            except OSError:
                return "closed"
        return "taken"

    with stack.watched() as peak, attacked(send, callers=2):
        good_caller.is_served(1)
    assert peak.grown_bytes < 256 * MIB
