"""Callers who have the server hold their bytes: its memory stays below what docs/tuning.md says, and is given back."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import encode
from cutout.v1 import image_service_pb2, image_service_pb2_grpc
from cutout_gateway.settings import GatewaySettings
from cutout_server.settings import Settings
from waiting import PATIENCE_S, wait_until

from adversarial.attack import attacked
from adversarial.good_caller import GoodCaller
from adversarial.stack import BAD, HASTY_GATEWAY, WORSE, Stack, running

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SMALL = {
    "max_message_bytes": 16 * MIB,
    "max_image_bytes": 8 * MIB,
    "max_received_bytes": 64 * MIB,
    "max_answer_bytes": 64 * MIB,
    "max_image_pixels": 4_000_000,
    "max_pixels_in_hand": 16_000_000,
    "max_sessions": 4,
    "max_stall_s": 1.0,
    "embeddings_cache_bytes": 16 * MIB,
}
SMALL_GATEWAY = {
    "max_body_bytes": 16 * MIB,
    "max_received_bytes": 64 * MIB,
    "max_answer_bytes": 64 * MIB,
    "max_stall_s": 1.0,
    "ready_timeout_s": PATIENCE_S,
}
SEGMENT = "/cutout.v1.SegmentationService/SegmentByBox"
SESSION = "/cutout.v1.SegmentationService/SegmentSession"
LARGE = bytes(15 * MIB)
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def greatest_growth(**given: int) -> int:
    """Memory beyond that of an idle server, as docs/tuning.md has it."""
    s = Settings(**given)
    return (
        2 * s.max_received_bytes
        + 3 * s.max_answer_bytes
        + (s.max_sessions + 8) * s.max_message_bytes
        + 6 * s.max_pixels_in_hand
        + s.embeddings_cache_bytes
        + s.answers_cache_bytes
        + 128 * MIB
    )


def greatest_growth_of_gateway(**given: int) -> int:
    """The same of the gateway with the processes that read for it."""
    s = GatewaySettings(**given)
    return 5 * s.max_received_bytes + 5 * s.max_answer_bytes + 20 * s.max_body_bytes + 256 * MIB


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    hasty = (HASTY_GATEWAY, "20", "1")
    with running(tmp_path_factory.mktemp("stack"), SMALL, SMALL_GATEWAY, gateway_program=hasty) as both:
        yield both


def called(stack: Stack, method: str, key: str, message: bytes = LARGE) -> str:
    """How one message on a connection of its own is answered."""
    metadata = (("x-api-key", key),) if key else ()
    with grpc.insecure_channel(stack.address, UNLIMITED) as channel:
        call = channel.stream_stream(method)(iter([message]), metadata=metadata, timeout=PATIENCE_S)
        try:
            list(call)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


@pytest.mark.parametrize(
    ("method", "keys", "codes"),
    [
        (SEGMENT, [BAD, WORSE], {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}),
        (SESSION, [BAD, WORSE], {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}),
        (SEGMENT, [""], {"UNAUTHENTICATED"}),
        ("/grpc.health.v1.Health/Check", [""], {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}),
        (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            [""],
            {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"},
        ),
        ("/no.such/Method", [""], {"UNIMPLEMENTED"}),
    ],
    ids=["message", "session", "no key", "health", "reflection", "no method"],
)
def test_large_messages(stack: Stack, good_caller: GoodCaller, method: str, keys: list[str], codes: set[str]):
    """Forty callers send the largest messages over and over, by every entrance, with keys and without.

    On a busy machine some of them take longer for a message than the second after which they give way.
    """
    turns = iter(range(10**9))
    with stack.watched() as peak, attacked(lambda: called(stack, method, keys[next(turns) % len(keys)]), 40) as answers:
        wait_until(lambda: answers.total() >= 80)
        good_caller.is_served()
    assert set(answers) <= codes
    assert peak.grown_bytes < greatest_growth(**SMALL)
    wait_until(lambda: stack.server.rss_bytes() < peak.first_bytes + 128 * MIB)


def test_uploads_that_do_not_go_on(stack: Stack, good_caller: GoodCaller):
    """Two callers' uploads that have begun and wait take all the room that there is: whoever stalls gives way."""
    begun = image_service_pb2.UploadImageRequest(chunk={"data": b"x"})
    over = threading.Event()

    def beginning() -> Iterator[image_service_pb2.UploadImageRequest]:
        yield begun
        over.wait(PATIENCE_S)

    def upload(key: str) -> str:
        with stack.channel() as channel:
            stub = image_service_pb2_grpc.ImageServiceStub(channel)
            try:
                stub.UploadImage(beginning(), metadata=(("x-api-key", key),), timeout=PATIENCE_S)
            except grpc.RpcError as error:
                return error.code().name
        return "OK"

    with ThreadPoolExecutor(16) as pool:
        uploads = [pool.submit(upload, key) for key in (BAD, WORSE) * 8]
        good_caller.is_served()
        wait_until(lambda: [e for e in stack.server.events("call") if e.get("reason") == "CALLER_STALLED"])
        over.set()
        assert {each.result() for each in uploads} <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}


def test_bodies_that_do_not_end(stack: Stack, good_caller: GoodCaller):
    """Forty long bodies lack their last byte: they have no more than their share, and leave nothing behind."""
    with stack.watched() as peak, ExitStack() as opened:
        half = LARGE[: len(LARGE) // 2]
        connections = []
        for number in range(40):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", stack.gateway_port), PATIENCE_S))
            connection.setblocking(False)
            key = (BAD, WORSE)[number % 2]
            head = (
                f"POST /v1/segment:box HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: {len(LARGE)}\r\n\r\n"
            )
            connections.append([connection, memoryview(head.encode() + half)])

        def all_sent() -> bool:
            left = [still_sends(each) for each in connections]
            return not any(left)

        wait_until(all_sent)
        good_caller.is_served()
        wait_until(lambda: [each for each in stack.gateway.events("request") if each["status"] == 429])
    assert peak.grown_bytes < greatest_growth(**SMALL) + greatest_growth_of_gateway(**SMALL_GATEWAY)
    wait_until(lambda: stack.gateway.rss_bytes() < peak.first_bytes)


def still_sends(connection: list[Any]) -> bool:
    """Sends what the other end takes; whether there is more to send, and somebody who reads it."""
    with suppress(BlockingIOError):
        try:
            connection[1] = connection[1][connection[0].send(connection[1]) :]
        except ConnectionError:
            connection[1] = b""
    return bool(connection[1])


def test_answers_that_are_not_taken_in(stack: Stack, good_caller: GoodCaller):
    """Whole answers of megabytes that nobody reads take their share of memory, until their clients have stalled."""
    picture = encode(np.zeros((1_500, 1_500, 3), np.uint8), ".png")
    request = {
        "image": {"content": base64.b64encode(picture).decode()},
        "boxes": [{"xMin": 20, "yMin": 20, "xMax": 1_400, "yMax": 1_400}] * 20,
        "options": {"maskFormats": ["MASK_FORMAT_BITS"]},
    }
    body = json.dumps(request).encode()
    with stack.watched() as peak, ExitStack() as opened:
        for number in range(24):
            connection = opened.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", stack.gateway_port))
            key = (BAD, WORSE)[number % 2]
            head = (
                f"POST /v1/segment:box HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
        good_caller.is_served()
        wait_until(lambda: len(stack.gateway.events("client stalled")) >= 2)
        good_caller.is_served()
    assert peak.grown_bytes < greatest_growth(**SMALL) + greatest_growth_of_gateway(**SMALL_GATEWAY)
