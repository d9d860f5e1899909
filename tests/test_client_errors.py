"""Errors, retries and deadlines of the client."""

import asyncio
import pickle
import time
from collections.abc import Iterator
from typing import Any

import client_fixtures
import cutout_client
import grpc
import numpy as np
import pytest
from client_fixtures import ScriptedServer
from cutout.v1.mask_pb2 import Mask
from cutout.v1.segmentation_pb2 import SegmentedObject
from cutout.v1.segmentation_service_pb2 import (
    MaskChunk,
    SegmentByBoxResponse,
    StreamHeader,
    StreamSegmentationResponse,
    StreamSummary,
)
from cutout_client import AsyncClient, Client, errors
from cutout_common.status import ErrorDetails, FieldViolation, pack
from google.protobuf.json_format import MessageToDict
from waiting import PATIENCE_S

PIXELS = np.zeros((4, 4, 3), np.uint8)
BOX = (0, 0, 2, 2)
FULL = ErrorDetails("QUEUE_FULL", retry_after_s=0.05)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with client_fixtures.scripted_server() as running:
        yield running


def ask(server: ScriptedServer, kind: str, pixels: np.ndarray = PIXELS, **settings: object) -> object:
    """Asks by the client of that kind."""

    async def ask_async() -> object:
        async with AsyncClient(server.address, **settings) as client:
            return await client.segment_box(pixels, BOX)

    if kind == "asyncio":
        return asyncio.run(ask_async())
    with Client(server.address, **settings) as client:
        return client.segment_box(pixels, BOX)


KINDS = pytest.mark.parametrize("kind", ["sync", "asyncio"])

CLASSES = {
    grpc.StatusCode.CANCELLED: cutout_client.CallCancelledError,
    grpc.StatusCode.UNKNOWN: cutout_client.InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: cutout_client.InvalidRequestError,
    grpc.StatusCode.DEADLINE_EXCEEDED: cutout_client.DeadlineError,
    grpc.StatusCode.NOT_FOUND: cutout_client.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: cutout_client.FailedPreconditionError,
    grpc.StatusCode.PERMISSION_DENIED: cutout_client.PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: cutout_client.UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: cutout_client.OverloadedError,
    grpc.StatusCode.FAILED_PRECONDITION: cutout_client.FailedPreconditionError,
    grpc.StatusCode.ABORTED: cutout_client.AbortedError,
    grpc.StatusCode.OUT_OF_RANGE: cutout_client.InvalidRequestError,
    grpc.StatusCode.UNIMPLEMENTED: cutout_client.UnimplementedError,
    grpc.StatusCode.INTERNAL: cutout_client.InternalError,
    grpc.StatusCode.UNAVAILABLE: cutout_client.UnavailableError,
    grpc.StatusCode.DATA_LOSS: cutout_client.InternalError,
}


def test_every_code_is_covered() -> None:
    """No code is forgotten in the parametrised tests below."""
    assert set(CLASSES) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@KINDS
@pytest.mark.parametrize("code", CLASSES)
def test_code_becomes_its_class(scripted: ScriptedServer, code: grpc.StatusCode, kind: str) -> None:
    """Each code is raised as its class, with all that its details say."""
    details = ErrorDetails("SOME_REASON", (FieldViolation("boxes[0].x_max", "expected more"),), 0.25, "abc")
    scripted.failures = [(code, "no", details)]
    with pytest.raises(CLASSES[code]) as caught:
        ask(scripted, kind, retries=0)
    error = caught.value
    assert type(error) is CLASSES[code]
    assert isinstance(error, cutout_client.CutoutError)
    assert (error.code, error.message, error.reason) == (code, "no", "SOME_REASON")
    assert error.violations == (FieldViolation("boxes[0].x_max", "expected more"),)
    assert error.retry_after_s == 0.25
    assert error.request_id == "abc"
    assert isinstance(error.__context__, grpc.RpcError)


@KINDS
@pytest.mark.parametrize("code", CLASSES)
def test_code_without_details(scripted: ScriptedServer, code: grpc.StatusCode, kind: str) -> None:
    """A bare status, as proxies send it, is raised too, and names the request by the id that the client chose."""
    scripted.failures = [(code, "no", None)]
    expected = cutout_client.TooLargeError if code is grpc.StatusCode.RESOURCE_EXHAUSTED else CLASSES[code]
    with pytest.raises(expected) as caught:
        ask(scripted, kind, retries=0)
    assert (caught.value.reason, caught.value.violations, caught.value.retry_after_s) == ("", (), None)
    assert caught.value.request_id == scripted.metadata["x-request-id"] != ""


def test_unknown_code_is_internal() -> None:
    """A code that gRPC will add one day is still an error of ours."""
    status = pack(grpc.StatusCode.INTERNAL, "new", ErrorDetails())
    status.code = 99
    assert isinstance(errors.from_status(status, "id"), cutout_client.InternalError)


def test_text_of_an_error() -> None:
    """What was wrong comes first, with every field that the message does not name already; then where to look."""
    violations = (FieldViolation("phrases", "expected one"), FieldViolation("boxes", "expected four"))
    details = ErrorDetails("X", violations, None, "abc")
    error = errors.make(grpc.StatusCode.INVALID_ARGUMENT, "phrases: expected one", details)
    assert str(error) == "phrases: expected one; boxes: expected four (INVALID_ARGUMENT, X, request abc)"


def test_errors_survive_pickling() -> None:
    """Errors cross process boundaries whole, as pools of workers need."""
    error = errors.make(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ErrorDetails("QUEUE_FULL", (), 1.5, "abc"))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is cutout_client.OverloadedError
    assert (str(again), again.retry_after_s) == (str(error), 1.5)


@KINDS
@pytest.mark.parametrize("side", [4, 900], ids=["small picture", "2.4 MB picture"])
def test_unavailable_is_tried_again(scripted: ScriptedServer, kind: str, side: int) -> None:
    """A server that is unavailable twice is asked three times, also with a picture above gRPC's own retry buffer."""
    unavailable = (grpc.StatusCode.UNAVAILABLE, "starting", ErrorDetails("STARTING", retry_after_s=1))
    scripted.failures = [unavailable, unavailable]
    ask(scripted, kind, np.zeros((side, side, 3), np.uint8))
    assert scripted.calls == ["SegmentByBox"] * 3
    assert [request.image.WhichOneof("source") for request in scripted.requests] == ["tensor"]


@KINDS
def test_upload_is_tried_again(scripted: ScriptedServer, kind: str) -> None:
    """An upload to a server that is unavailable is sent again from its beginning, with its digest."""
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)
    scripted.failures = [(grpc.StatusCode.UNAVAILABLE, "starting", ErrorDetails("STARTING"))]
    ask(scripted, kind, noise)
    assert scripted.calls == ["UploadImage", "UploadImage", "SegmentByBox"]
    assert [len(digest) for digest in scripted.digests] == [64]
    assert [request.image.image_id for request in scripted.requests] == ["stored"]


@KINDS
def test_no_retries_when_turned_off(scripted: ScriptedServer, kind: str) -> None:
    """With retries=0 the first failure is final."""
    scripted.failures = [(grpc.StatusCode.UNAVAILABLE, "starting", ErrorDetails("STARTING"))] * 2
    with pytest.raises(cutout_client.UnavailableError):
        ask(scripted, kind, retries=0)
    assert len(scripted.calls) == 1


@KINDS
def test_full_server_is_asked_again(scripted: ScriptedServer, kind: str) -> None:
    """A full server is asked again after each pause that it asks for, however often, within the deadline."""
    scripted.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", FULL)] * 9
    began = time.monotonic()
    ask(scripted, kind, retries=1)
    assert time.monotonic() - began >= 9 * 0.05
    assert len(scripted.calls) == 10


@KINDS
def test_full_server_is_given_up(scripted: ScriptedServer, kind: str) -> None:
    """When the deadline comes near, the server's own error is raised, with its delay; with retries=0 at once."""
    scripted.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ErrorDetails("QUEUE_FULL", retry_after_s=2))] * 9
    with pytest.raises(cutout_client.OverloadedError) as caught:
        ask(scripted, kind, timeout_s=5)
    assert caught.value.retry_after_s == 2
    assert 1 <= len(scripted.calls) <= 3
    scripted.calls.clear()
    with pytest.raises(cutout_client.OverloadedError):
        ask(scripted, kind, retries=0)
    assert len(scripted.calls) == 1


@KINDS
@pytest.mark.parametrize("form", ["rle", "png"])
def test_streams_wait_for_a_full_server(scripted: ScriptedServer, kind: str, form: str) -> None:
    """A stream that was refused before its first message is started again; so are answers that come as streams."""
    scripted.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", FULL)] * 2
    scripted.events = [
        StreamSegmentationResponse(header=StreamHeader(image={"width": 4, "height": 4})),
        StreamSegmentationResponse(summary=StreamSummary()),
    ]

    def call(client: Client | AsyncClient) -> Any:
        if form == "png":
            return client.segment_box(PIXELS, BOX, mask_formats=["png"])
        return client.stream(PIXELS, boxes=BOX).result()

    async def call_async() -> Any:
        async with AsyncClient(scripted.address) as client:
            return await call(client)

    if kind == "asyncio":
        result = asyncio.run(call_async())
    else:
        with Client(scripted.address) as client:
            result = call(client)
    assert len(result) == 0
    assert scripted.calls == ["StreamSegmentation"] * 3


@KINDS
def test_no_pause_beyond_the_deadline(scripted: ScriptedServer, kind: str) -> None:
    """A pause that would outlast the deadline is not made: the error comes at once."""
    scripted.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ErrorDetails("QUEUE_FULL", retry_after_s=400))]
    with pytest.raises(cutout_client.OverloadedError):
        ask(scripted, kind, timeout_s=PATIENCE_S)
    assert len(scripted.calls) == 1


@KINDS
def test_too_large_is_not_tried_again(scripted: ScriptedServer, kind: str) -> None:
    """RESOURCE_EXHAUSTED without a delay never fits, so it is raised at once."""
    scripted.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large", ErrorDetails("TOO_LARGE"))]
    with pytest.raises(cutout_client.TooLargeError):
        ask(scripted, kind)
    assert len(scripted.calls) == 1


@KINDS
def test_an_answer_beyond_the_callers_own_bound(scripted: ScriptedServer, kind: str) -> None:
    """What this end does not take is told with what does: pieces, or another bound."""
    scripted.answer = SegmentByBoxResponse(segmentation={"models": ["x" * 5000]})
    bound = [("grpc.max_receive_message_length", 4000)]
    with pytest.raises(cutout_client.TooLargeError, match=r"larger than max .*`stream`.*max_receive_message_length"):
        ask(scripted, kind, channel_options=bound)


@KINDS
def test_no_answer_in_time(scripted: ScriptedServer, kind: str) -> None:
    """The caller's own deadline is named as that."""
    scripted.hold = True
    with pytest.raises(cutout_client.DeadlineError, match="timeout_s"):
        ask(scripted, kind, timeout_s=0.2)


@KINDS
def test_no_server(kind: str) -> None:
    """Nobody listening is an UnavailableError that says so."""
    with pytest.raises(cutout_client.UnavailableError, match="cannot reach"):
        ask(ScriptedServer("127.0.0.1:1"), kind, retries=0)


def test_every_argument_is_sent(scripted: ScriptedServer) -> None:
    """Thresholds, models and options arrive under the contract's names; what was left out, or is None, is not sent."""
    options = {
        "multimask": True,
        "strategy": "largest",
        "mask_formats": ["polygons", "rle"],
        "mask_threshold": 0.5,
        "min_area": 1,
        "max_hole_area": 2,
        "min_part_area": 3,
        "nms_iou": 0.25,
        "max_objects": 4,
    }
    with Client(scripted.address) as client:
        models = {"detector": "d", "segmenter": "s"}
        client.segment_text(PIXELS, ["a", "b . c"], box_threshold=0.5, text_threshold=0.0, **models, **options)
        client.segment_everything(PIXELS, points_per_side=8, predicted_iou_threshold=0.5, stability_threshold=0.0)
        client.segment_text(PIXELS, "a", box_threshold=None, nms_iou=None, overlay=None)
    text, everything, bare = (MessageToDict(request, preserving_proto_field_name=True) for request in scripted.requests)
    for request in (text, everything, bare):
        del request["image"]
    enums = {"strategy": "STRATEGY_LARGEST", "mask_formats": ["MASK_FORMAT_POLYGONS", "MASK_FORMAT_RLE"]}
    assert text == {
        "phrases": ["a", "b . c"],
        "box_threshold": 0.5,
        "text_threshold": 0.0,
        "detector": "d",
        "segmenter": "s",
        "options": options | enums,
    }
    thresholds = {"predicted_iou_threshold": 0.5, "stability_threshold": 0.0}
    assert everything == {"points_per_side": 8, "options": {}} | thresholds
    assert bare == {"phrases": ["a"], "options": {}}


def test_request_id_and_key_are_sent(scripted: ScriptedServer) -> None:
    """The caller's request id and API key travel with the call; the result carries the id."""
    with Client(scripted.address, api_key="a-secret") as client:
        assert client.segment_box(PIXELS, BOX, request_id="mine").request_id == "mine"
    assert scripted.metadata["x-request-id"] == "mine"
    assert scripted.metadata["x-api-key"] == "a-secret"


HEADER = StreamSegmentationResponse(header=StreamHeader())
OBJECT = StreamSegmentationResponse(object=SegmentedObject(masks=[Mask(png=b"x")]))
CHUNKED = StreamSegmentationResponse(object=SegmentedObject(masks=[Mask()]))
PIECE = StreamSegmentationResponse(mask_chunk=MaskChunk(data=Mask(png=b"x").SerializeToString()))
ONE = StreamSegmentationResponse(summary=StreamSummary(object_count=1))


@KINDS
@pytest.mark.parametrize(
    "events",
    [[], [HEADER], [HEADER, OBJECT], [OBJECT, ONE], [HEADER, ONE], [HEADER, CHUNKED, PIECE, ONE]],
    ids=["nothing", "header alone", "no summary", "no header", "object missing", "chunk missing"],
)
def test_stream_that_is_cut_short(scripted: ScriptedServer, kind: str, events: list) -> None:
    """A stream that ends before all of it was there is an error, not a shorter answer."""
    scripted.events = events

    async def collect_async() -> None:
        async with AsyncClient(scripted.address) as client:
            await client.stream(PIXELS, boxes=BOX).result()

    def collect() -> None:
        with Client(scripted.address) as client:
            client.stream(PIXELS, boxes=BOX).result()

    with pytest.raises(cutout_client.InternalError, match="ended before"):
        asyncio.run(collect_async()) if kind == "asyncio" else collect()


def test_session_prompt_deadline(scripted: ScriptedServer) -> None:
    """A prompt that is not answered in time raises, and ends the session."""
    with Client(scripted.address) as client, client.session(PIXELS) as session:
        with pytest.raises(cutout_client.DeadlineError):
            session.box(BOX, timeout_s=0.1)
        with pytest.raises(cutout_client.CutoutError):
            session.box(BOX)


async def test_async_session_prompt_deadline(scripted: ScriptedServer) -> None:
    """A prompt that is not answered in time raises, and ends the session."""
    async with AsyncClient(scripted.address) as client, client.session(PIXELS) as session:
        with pytest.raises(cutout_client.DeadlineError):
            await session.box(BOX, timeout_s=0.1)
        with pytest.raises(cutout_client.CutoutError):
            await session.box(BOX)


@pytest.mark.parametrize(
    "settings",
    [{"retries": 5}, {"retries": -1}, {"client_key": b"key"}, {"root_certificates": b"ca"}],
)
def test_settings_that_cannot_be_used(settings: dict) -> None:
    """Settings that would be ignored or cut are refused."""
    with pytest.raises(ValueError, match=r"retries|belong together|tls"):
        Client(**settings)
