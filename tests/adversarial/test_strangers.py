"""Callers without a key: whatever they send, they are refused at little cost."""

import http.client
import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import httpx
import pytest
from cutout.v1 import image_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from waiting import PATIENCE_S, wait_until

from adversarial.attack import attacked
from adversarial.good_caller import GoodCaller
from adversarial.stack import BAD, HASTY_GATEWAY, Stack, running

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
BODIES = {
    "a million empty values": b"[" + b'"",' * (MIB // 3 - 2) + b'""]',
    "a million keys": b"{" + b",".join(b'"%x":0' % number for number in range(100_000)) + b"}",
    "one key again and again": b'{"boxes":[' + b'{"xMin":1,"xMin":1},' * 50_000 + b"{}]}",
    "brackets in brackets": b"[" * MIB,
    "objects in objects": b'{"image":' * 100_000,
    "half of a character": b'{"segmenter":"\\ud800"}',
    "digits without end": b'{"boxes":[{"xMin":' + b"9" * (MIB // 2) + b"}]}",
    "no UTF-8": b'{"segmenter":"\xff\xfe"}',
    "almost base64": b'{"image":{"content":"' + b"A" * MIB + b'!"}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("key", [{}, {"x-api-key": BAD}], ids=["no key", "a key"])
def test_json_that_is_made_to_hurt(stack: Stack, good_caller: GoodCaller, body: bytes, key: dict[str, str]):
    """Four callers send it over and over: a 400 or a 401, while everybody else is served."""

    def send() -> str:
        headers = {"content-type": "application/json"} | key
        response = httpx.post(f"{stack.url}/v1/segment:box", content=body, headers=headers, timeout=PATIENCE_S)
        assert response.json()["details"][0]["reason"]
        return str(response.status_code)

    with attacked(send) as answers:
        good_caller.is_served()
    assert set(answers) <= {"400", "401"}


def test_bytes_that_are_no_message(stack: Stack, good_caller: GoodCaller):
    """INVALID_ARGUMENT with a key and UNAUTHENTICATED without, by every kind of method, in one log line each."""
    chance = random.Random(3)  # noqa: S311
    whole = pb2.SegmentByBoxRequest(image=image_pb2.Image(content=b"x" * 300)).SerializeToString()
    methods = {"unary": "SegmentByBox", "server stream": "StreamSegmentation", "both": "SegmentSession"}
    messages = [b"\xff" * 40, whole[:-5], b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 5_000, chance.randbytes(3_000)]

    with stack.channel() as channel:

        def send() -> str:
            method = chance.choice(list(methods.values()))
            message, key = chance.choice(messages), chance.choice([(), (("x-api-key", BAD),)])
            call = channel.stream_stream(f"/cutout.v1.SegmentationService/{method}")
            with pytest.raises(grpc.RpcError) as refused:
                list(call(iter([message]), metadata=key, timeout=PATIENCE_S))
            assert "Traceback" not in refused.value.details()
            return f"{bool(key)} {refused.value.code().name}"

        with attacked(send) as answers:
            good_caller.is_served()
    assert set(answers) <= {"True INVALID_ARGUMENT", "False UNAUTHENTICATED"}
    assert not stack.server.events("unexpected error")


def test_connections_that_trickle(tmp_path: Path):
    """Hundreds that send a byte now and then, headers or bodies, are given up; their files are given back."""
    beginnings = [
        b"GET /v1/models HTT",
        b"POST /v1/segment:box HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
        b"POST /v1/images HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"",
    ]
    limits = {"headers_timeout_s": 3.0, "max_connections": 400, "max_connections_per_client": 300}
    hasty = (HASTY_GATEWAY, "3", "10")
    with (
        running(tmp_path, gateway=limits, gateway_program=hasty) as stack,
        GoodCaller(stack) as good_caller,
        ExitStack() as opened,
    ):
        good_caller.is_served(1)
        before = stack.gateway.files()
        slow = []
        for number in range(250):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", stack.gateway_port), PATIENCE_S))
            connection.sendall(beginnings[number % len(beginnings)])
            slow.append(connection)
        with stack.watched() as peak:
            good_caller.is_served(3)

            def all_given_up() -> bool:
                for connection in slow:
                    with suppress(OSError):
                        connection.send(b"x")
                return stack.gateway.files() <= before + 5

            wait_until(all_given_up)
            good_caller.is_served()
        assert peak.files <= before + len(slow) + 50


def test_more_connections_than_one_address_may_have(tmp_path: Path):
    """Those beyond the bound are told so; health is asked by somebody who was there before, all the while."""
    with (
        running(tmp_path, gateway={"max_connections_per_client": 50}) as stack,
        GoodCaller(stack) as good_caller,
        ExitStack() as opened,
    ):
        good_caller.is_served(1)

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection(("127.0.0.1", stack.gateway_port), PATIENCE_S))

        for _ in range(60):
            connect()
        refused = connect()
        answer = http.client.HTTPResponse(refused)
        answer.begin()
        assert json.loads(answer.read())["details"][0]["reason"] == "TOO_MANY_CONNECTIONS"
        good_caller.is_served()


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[Stack]:
    with running(tmp_path, {"allow_uris": True, "uri_timeout_s": 5.0}) as stack:
        yield stack


def test_addresses_that_are_nobody_elses_business(fetching: Stack):
    """The gateway's own address, the metadata service's and other spellings of them are asked for by nobody."""
    port = fetching.gateway_port
    addresses = [
        f"http://127.0.0.1:{port}/healthz",
        f"http://[::ffff:127.0.0.1]:{port}/healthz",
        f"http://localhost:{port}/healthz",
        "http://169.254.169.254/latest/meta-data/",
        "http://168.63.129.16/",
        "http://192.0.0.192/",
        "http://2130706433/",
        "http://0x7f.1/",
        "file:///etc/passwd",
    ]
    chance = random.Random(5)  # noqa: S311

    def send() -> str:
        request = {"image": {"uri": chance.choice(addresses)}, "boxes": [{"xMax": 9, "yMax": 9}]}
        response = httpx.post(
            f"{fetching.url}/v1/segment:box", json=request, headers={"x-api-key": BAD}, timeout=PATIENCE_S
        )
        return str(response.status_code)

    with GoodCaller(fetching) as good_caller:
        good_caller.is_served(1)
        asked = len([event for event in fetching.gateway.events("request") if event["route"] == "/healthz"])
        with attacked(send, callers=2) as answers:
            good_caller.is_served()
    assert set(answers) <= {"400", "403"}
    assert len([event for event in fetching.gateway.events("request") if event["route"] == "/healthz"]) == asked
