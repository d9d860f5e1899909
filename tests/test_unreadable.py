"""What arrives below the application: bytes that are no message, no message at all, methods that do not exist."""

from collections.abc import Iterator

import grpc
import pytest
from conftest import RunningServer, run_server
from cutout_common.status import unpack
from grpc_status import rpc_status
from structlog.testing import capture_logs
from test_metrics import scrape
from waiting import PATIENCE_S

KEY = "0123456789abcdef"
AUTH = (("x-api-key", KEY), ("x-request-id", "mine"))
BROKEN = {
    "cut off": b"\x0a\xff\xff\xff\xff\x0f",
    "no UTF-8": b"\x12\x01\xff\x1a\x01\xff",
    "noise": b"\xff" * 99,
}
SEGMENTATION, IMAGES = "cutout.v1.SegmentationService", "cutout.v1.ImageService"
OURS = {
    "unary": (SEGMENTATION, "SegmentByText"),
    "server_stream": (SEGMENTATION, "StreamSegmentation"),
    "client_stream": (IMAGES, "UploadImage"),
    "bidi_stream": (SEGMENTATION, "SegmentSession"),
}
OTHERS = {
    "check": ("grpc.health.v1.Health", "Check"),
    "watch": ("grpc.health.v1.Health", "Watch"),
    "reflection": ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
}


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    with run_server(api_keys=[{"caller": "one", "key": KEY}]) as running:
        yield running


@pytest.fixture(scope="module")
def channel(keyed: RunningServer) -> Iterator[grpc.Channel]:
    with keyed.channel() as opened:
        yield opened


def ask(channel: grpc.Channel, method: tuple[str, str], *sent: bytes, metadata: object = AUTH) -> grpc.RpcError:
    """How a call fails that is given these bytes as its messages."""
    call = channel.stream_stream("/" + "/".join(method))
    with pytest.raises(grpc.RpcError) as refused:
        list(call(iter(sent), metadata=metadata, timeout=PATIENCE_S))
    return refused.value


def outcome(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and request id; the details have to be there."""
    status = rpc_status.from_call(error)
    assert status is not None, error.details()
    details = unpack(status)
    return error.code(), details.reason, details.request_id


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", OURS)
def test_bytes_that_are_no_message(kind: str, data: bytes, keyed: RunningServer, channel: grpc.Channel):
    """INVALID_ARGUMENT without a word of Python, counted once, and logged in one line without a traceback."""
    service, method = OURS[kind]
    labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method, "grpc_code": "INVALID_ARGUMENT"}
    handled = ("grpc_server_handled_total", frozenset(labels.items()))
    before = scrape(keyed).get(handled, 0)
    with capture_logs() as logs:
        error = ask(channel, (service, method), data)
    assert outcome(error) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "mine")
    assert "protobuf" in error.details()
    assert "class" not in error.details()
    assert scrape(keyed)[handled] == before + 1
    (line,) = [line for line in logs if line.get("request_id") == "mine"]  # Other servers of this process log as well.
    assert (
        line.items()
        >= {
            "event": "call",
            "caller": "one",
            "method": method,
            "code": "INVALID_ARGUMENT",
            "reason": "MALFORMED_MESSAGE",
        }.items()
    )


@pytest.mark.parametrize("method", OTHERS.values(), ids=OTHERS)
def test_health_and_reflection_have_the_same_form(method: tuple[str, str], channel: grpc.Channel):
    """They need no key; what they cannot read, or do not get, is refused likewise."""
    error = ask(channel, method, BROKEN["cut off"], metadata=(("x-request-id", "mine"),))
    assert outcome(error) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "mine")


@pytest.mark.parametrize("method", [OURS["unary"], OURS["server_stream"], OTHERS["check"], OTHERS["watch"]])
def test_a_call_without_its_message(method: tuple[str, str], channel: grpc.Channel):
    """It is refused, and does not wait for ever."""
    assert outcome(ask(channel, method)) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", "mine")


@pytest.mark.parametrize("kind", OURS)
def test_the_key_is_asked_for_first(kind: str, channel: grpc.Channel):
    """Without one nothing is read: neither what is broken nor which methods there are."""
    for method in (OURS[kind], (SEGMENTATION, "Nothing")):
        error = ask(channel, method, BROKEN["noise"], metadata=(("x-request-id", "mine"),))
        assert outcome(error) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID", "mine")


def test_a_method_that_does_not_exist(keyed: RunningServer, channel: grpc.Channel):
    """It is refused in our form, and counted under a name that callers cannot choose."""
    error = ask(channel, (SEGMENTATION, "Nothing"), b"")
    assert outcome(error) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND", "mine")
    labels = dict.fromkeys(("grpc_type", "grpc_service", "grpc_method"), "unknown") | {"grpc_code": "UNIMPLEMENTED"}
    assert scrape(keyed)["grpc_server_handled_total", frozenset(labels.items())] == 1
