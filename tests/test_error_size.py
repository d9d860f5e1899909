"""Refusals of any size arrive whole at clients that take 8 KiB of metadata, and text of any size cannot grow them."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import grpc
import httpx
import pytest
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, image_service_pb2, mask_pb2, model_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common import status, texts
from cutout_common.status import ErrorDetails, FieldViolation, pack, unpack
from cutout_gateway.settings import GatewaySettings
from cutout_server import errors
from gateway_fixtures import GatewayThread
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from waiting import PATIENCE_S

SMALL = [("grpc.max_metadata_size", 8192), ("grpc.absolute_max_metadata_size", 8192)]
ID = "i" * 128
METADATA = (("x-request-id", ID),)
LONG = {"letters": "x" * 100_000, "escaped": "кот% \n" * 20_000, "emoji": "👩‍👩‍👧" * 20_000}
IMAGE = image_pb2.Image(tensor=image_pb2.RawTensor(height=16, width=16, channels=3, data=bytes(768)))
OUTSIDE = [mask_pb2.Box(x_min=1000, y_min=1, x_max=1090, y_max=9)] * 60
WORDS = [f"submarine {i}" for i in range(250)]


def wire_bytes(trailers: object) -> int:
    """Of trailing metadata as strict receivers count it (RFC 9113, section 10.5.1), binary entries in base64."""
    size = 0
    for key, value in trailers:
        size += len(key) + len(base64.b64encode(value) if isinstance(value, bytes) else value) + 32
    return size


def drain(answer: object) -> None:
    if isinstance(answer, Iterator):
        list(answer)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, Status]:
    """Code and status of a call that must fail; stream answers are read to their end. Checks what crossed the wire."""
    with pytest.raises(grpc.RpcError) as refused:
        drain(call())
    error = refused.value
    found = rpc_status.from_call(error)
    assert found is not None, (error.code(), error.details())
    message = quote(error.details(), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    around = [
        ("grpc-status", "16"),
        ("grpc-message", message),
        (":status", "200"),
        ("content-type", "application/grpc"),
    ]
    assert wire_bytes([*around, *error.trailing_metadata()]) <= 7 * 1024
    assert unpack(found).request_id == ID
    return error.code(), found


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A server that takes long names, and fetches nothing."""
    with run_server(max_prompts=256) as running:
        yield running


@pytest.fixture(scope="module")
def strict(server: RunningServer) -> Iterator[Stubs]:
    """Stubs of a client that takes 8 KiB of metadata and not a byte more."""
    with grpc.insecure_channel(server.address, SMALL) as channel:
        yield Stubs.over(channel)


@dataclass(frozen=True)
class Refused:
    """A request that is refused for reasons of which there are many, or long ones."""

    request: pb2.SegmentByBoxRequest | pb2.SegmentByTextRequest | pb2.SegmentByPointsRequest
    first: str
    count: int

    @property
    def kind(self) -> str:
        return {"Box": "box", "Tex": "text", "Poi": "points"}[type(self.request).__name__[9:12]]


MANY = {
    "boxes outside": Refused(pb2.SegmentByBoxRequest(image=IMAGE, boxes=OUTSIDE), "boxes[0]", 60),
    "unknown words": Refused(pb2.SegmentByTextRequest(image=IMAGE, phrases=WORDS), "phrases[0]", 250),
    "ten words": Refused(pb2.SegmentByTextRequest(image=IMAGE, phrases=WORDS[:10]), "phrases[0]", 10),
    "not numbers": Refused(
        pb2.SegmentByPointsRequest(
            image=IMAGE, prompts=[pb2.ObjectPrompt(points=[mask_pb2.Point(x=float("nan"), y=1)] * 200)] * 200
        ),
        "prompts[0].points[0].x",
        40_000,
    ),
    **{
        f"detector of {what}": Refused(
            pb2.SegmentByTextRequest(image=IMAGE, phrases=["cat"], detector=text), "detector", 1
        )
        for what, text in LONG.items()
    },
}


@pytest.mark.parametrize("name", MANY)
def test_the_first_violations_arrive_in_every_answer(name: str, strict: Stubs, server: RunningServer):
    """Over gRPC, in streams and inside sessions: code, reason, the first field, and how many fields were left out."""
    case = MANY[name]
    unary = getattr(strict.segmentation, f"SegmentBy{case.kind.title()}")
    stream = pb2.StreamSegmentationRequest(**{case.kind: case.request})
    code, by_unary = refusal(lambda: unary(case.request, metadata=METADATA))
    _, by_stream = refusal(lambda: strict.segmentation.StreamSegmentation(stream, metadata=METADATA))
    prompt = type(case.request)()
    prompt.CopyFrom(case.request)
    prompt.ClearField("image")
    asked = iter([pb2.SegmentSessionRequest(open={"image": IMAGE}), pb2.SegmentSessionRequest(**{case.kind: prompt})])
    _, in_session = list(strict.segmentation.SegmentSession(asked, metadata=METADATA))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    for found, prefix in ((by_unary, ""), (by_stream, f"{case.kind}."), (in_session.error, f"{case.kind}.")):
        details = unpack(found)
        assert details.reason
        assert details.violations[0].field == prefix + case.first
        assert len(details.violations) + details.omitted_violations == case.count
        said = found.message.count(": expected")
        assert found.message.endswith(f"; and {case.count - said} more") == (case.count > said)
        assert found.ByteSize() <= 4096


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_what_callers_write_cannot_grow_a_refusal(text: str, strict: Stubs):
    """Names, ids and addresses of any length are told by their two ends, whatever the code."""
    expected = {
        grpc.StatusCode.NOT_FOUND: [
            lambda: strict.models.GetModel(model_service_pb2.GetModelRequest(name=text), metadata=METADATA),
            lambda: strict.models.LoadModel(
                model_service_pb2.LoadModelRequest(name="builtin", device=text), metadata=METADATA
            ),
            lambda: strict.images.GetImage(image_service_pb2.GetImageRequest(image_id=text), metadata=METADATA),
            lambda: strict.images.DeleteImage(image_service_pb2.DeleteImageRequest(image_id=text), metadata=METADATA),
        ],
        grpc.StatusCode.PERMISSION_DENIED: [
            lambda: strict.segmentation.SegmentEverything(
                pb2.SegmentEverythingRequest(image={"uri": f"http://{text}"}), metadata=METADATA
            ),
        ],
        grpc.StatusCode.INVALID_ARGUMENT: [
            lambda: strict.images.UploadImage(
                iter([image_service_pb2.UploadImageRequest(chunk={"data": b"x"}, expected_sha256=text)]),
                metadata=METADATA,
            ),
            lambda: strict.images.RenderOverlay(
                image_service_pb2.RenderOverlayRequest(picture={"data": b"x"}, detector=text), metadata=METADATA
            ),
        ],
    }
    for code, asked in expected.items():
        for call in asked:
            got, found = refusal(call)
            assert got in {code, grpc.StatusCode.INVALID_ARGUMENT}
            assert unpack(found).reason


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_fits_at_its_largest(code: grpc.StatusCode):
    """A status is within its bound whatever it is made of, and says how much was left out."""
    for text in LONG.values():
        violations = tuple(FieldViolation(text, text) for _ in range(1000))
        packed = pack(code, text, ErrorDetails(text, violations, 1e6, text, omitted_violations=5))
        details = unpack(packed)
        assert packed.ByteSize() <= 4096
        assert texts.escaped_bytes(packed.message) <= status.MAX_MESSAGE_BYTES
        assert 1 <= len(details.violations) == 1005 - details.omitted_violations
        assert details.retry_after_s == 1e6
        trailers = [("grpc-message", "x" * 1024), ("grpc-status-details-bin", packed.SerializeToString())]
        assert wire_bytes([*trailers, ("x-request-id", ID)]) <= 7 * 1024


def all_errors() -> list[errors.CutoutError]:
    """One of each class of the server's tree, with the longest text."""
    made: list[errors.CutoutError] = [
        errors.InvalidRequestError(*[FieldViolation(LONG["escaped"], LONG["emoji"])] * 99)
    ]
    for each in errors.CutoutError.__subclasses__():
        if each in {errors.OverloadedError, errors.UnavailableError}:
            made.append(each(LONG["escaped"], retry_after_s=1.5))
        elif each is errors.QuotaError:
            made.append(each(LONG["escaped"], 10**18, use=10**18, retry_after_s=1.5))
        elif each is not errors.InvalidRequestError:
            made.append(each(LONG["escaped"]))
    return made


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: type(error).__name__)
def test_every_class_of_error_arrives(error: errors.CutoutError, monkeypatch, strict: Stubs, server: RunningServer):
    """Each class crosses the wire with its code, its reason and its retry delay, and REST says the same."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("cutout_server.services.models.responses.status", fail)
    code, found = refusal(lambda: strict.models.GetStatus(model_service_pb2.GetStatusRequest(), metadata=METADATA))
    details = unpack(found)
    assert (code, details.reason, details.retry_after_s) == (error.code, error.reason, error.retry_after_s)
    with GatewayThread(GatewaySettings(server_address=server.address)) as gateway:
        answer = httpx.get(f"{gateway.url}/v1/status", headers={"x-request-id": ID}, timeout=PATIENCE_S)
    same = json_format.ParseDict(answer.json(), Status())
    assert (same.code, same.message, unpack(same)) == (found.code, found.message, details)
    assert ("retry-after" in answer.headers) == (error.retry_after_s is not None)


def test_texts_are_shortened_between_characters():
    """A long text keeps its two ends; what UTF-8 cannot write is replaced; short ones stay as they are."""
    assert texts.shorten("short", 16) == "short"
    assert texts.shorten("a" * 20 + "b" * 20, 16) == "aaaaaaaaa...bbbb"
    for text in ("é" * 50, "猫" * 50, "😀" * 50, "e\u0301" * 50, "\ud800" * 50, "%" * 50):
        for most in range(16, 60):
            for size in (texts.utf8_bytes, texts.escaped_bytes):
                short = texts.shorten(text, most, size)
                assert size(short) <= most
                assert set(short) <= {*text, ".", "?"}
