"""A task for which the server has no model is the server's matter, told with what brings one, at every entrance."""

import asyncio
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cutout_client
import grpc
import httpx
import numpy as np
import pytest
from client_fixtures import cutout
from conftest import Photo, RunningServer, run_server
from cutout.v1 import generation_service_pb2, generation_service_pb2_grpc, image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout.v1 import segmentation_service_pb2_grpc as pb2_grpc
from cutout_client import AsyncClient, Client
from cutout_common.status import unpack
from cutout_gateway.settings import GatewaySettings
from cutout_server.models.family import Family
from cutout_server.models.registry import FAMILIES
from cutout_server.types import Task
from gateway_fixtures import GatewayThread
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from waiting import PATIENCE_S

PIXELS = np.zeros((32, 32, 3), np.uint8)
BOX = mask_pb2.Box(x_min=1, y_min=1, x_max=9, y_max=9)
SMALL = "`cutout serve --profile small`"

TEXT = pb2.SegmentByTextRequest(phrases=["cat"])
EXEMPLARS = pb2.SegmentByTextRequest(phrases=["visual"], exemplars=[pb2.Exemplar(box=BOX)])
REWRITE = pb2.SegmentByTextRequest(phrases=["what purrs?"], rewrite=True)
BY_BOX = pb2.SegmentByBoxRequest(boxes=[BOX])
BY_POINTS = pb2.SegmentByPointsRequest(prompts=[pb2.ObjectPrompt(points=[mask_pb2.Point(x=3, y=3)])])
EVERYTHING = pb2.SegmentEverythingRequest()
ANALYZE = pb2.AnalyzeImageRequest(concepts=["a cat", "a dog"])
NAMED = pb2.AnalyzeImageRequest(concepts=["a cat", "a dog"], classifier="clip-vit-b-32")

# What the built-in model alone cannot do, and what a server cannot that only classifies -> what the error says.
WITHOUT_MORE = {
    "classifier": (ANALYZE, "classifier: this server has no model that can classify; ", SMALL),
    "named classifier": (NAMED, "classifier: this server has no model that can classify; ", SMALL),
    "exemplars": (EXEMPLARS, "exemplars: this server has no model that takes any; ", "--models sam3"),
    "rewriter": (REWRITE, "rewrite: this server has no language model", "rewrite_url"),
}
WITHOUT_SEGMENTER = {
    "detector": (TEXT, "detector: this server has no model that can detect; ", SMALL),
    "segmenter for boxes": (BY_BOX, "segmenter: this server has no model that can segment; ", SMALL),
    "segmenter for points": (BY_POINTS, "segmenter: this server has no model that can segment; ", SMALL),
    "segmenter for everything": (
        EVERYTHING,
        "segmenter: this server has no model that can segment everything; ",
        SMALL,
    ),
}
PATHS = {"text": "segment:text", "box": "segment:box", "points": "segment:points", "everything": "segment:everything"}
METHODS = {"text": "SegmentByText", "box": "SegmentByBox", "points": "SegmentByPoints", "analyze": "AnalyzeImage"}


@contextmanager
def classifying_family() -> Iterator[dict[str, str]]:
    """A family that does nothing but classify, and is never asked to."""
    FAMILIES["scorer"] = Family("scorer", frozenset({Task.CLASSIFY}), lambda *_: Idle(), needs_checkpoint=False)
    try:
        yield {"name": "scorer", "family": "scorer"}
    finally:
        del FAMILIES["scorer"]


class Idle:
    """A model without weights."""

    nbytes = 0


@pytest.fixture(scope="module")
def scorer() -> Iterator[RunningServer]:
    with classifying_family() as model, run_server(models=[model]) as running:
        yield running


@pytest.fixture(scope="module")
def scorer_url(scorer: RunningServer) -> Iterator[str]:
    with GatewayThread(GatewaySettings(server_address=scorer.address)) as gateway:
        yield gateway.url


@pytest.fixture(params=[*WITHOUT_MORE, *WITHOUT_SEGMENTER])
def case(request: pytest.FixtureRequest) -> tuple[str, str, Message, str, str]:
    """The server's address, the gateway's, the request without its picture, how the message begins, the cure."""
    builtin = request.param in WITHOUT_MORE
    message, begins, cure = (WITHOUT_MORE | WITHOUT_SEGMENTER)[request.param]
    running: RunningServer = request.getfixturevalue("server" if builtin else "scorer")
    url: str = request.getfixturevalue("gateway_url" if builtin else "scorer_url")
    return running.address, url, message, begins, cure


def kind_of(message: Message) -> str:
    name = type(message).__name__.removeprefix("Segment").removeprefix("By").removesuffix("Request")
    return name.removesuffix("Image").lower()


def with_picture(message: Message) -> Message:
    filled = type(message)()
    filled.CopyFrom(message)
    filled.image.tensor.CopyFrom(image_pb2.RawTensor(height=32, width=32, channels=3, data=PIXELS.tobytes()))
    return filled


def told(status: Status, begins: str, cure: str) -> None:
    """The status is the refusal that is expected."""
    assert status.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert unpack(status).reason == "NO_MODEL_FOR_TASK"
    assert status.message.startswith(begins)
    assert cure in status.message


def refusal(call: Callable[[], object]) -> Status:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return rpc_status.from_call(caught.value)


def test_grpc(case: tuple):
    """Unary, streamed and in a session."""
    address, _, message, begins, cure = case
    kind = kind_of(message)
    with grpc.insecure_channel(address) as channel:
        stub = pb2_grpc.SegmentationServiceStub(channel)
        method = getattr(stub, METHODS.get(kind, "SegmentEverything"))
        told(refusal(lambda: method(with_picture(message))), begins, cure)
        streamed = pb2.StreamSegmentationRequest(**{kind: with_picture(message)})
        told(refusal(lambda: list(stub.StreamSegmentation(streamed))), begins, cure)
        opening = pb2.SessionOpen(image=with_picture(message).image)
        prompts = [pb2.SegmentSessionRequest(open=opening), pb2.SegmentSessionRequest(**{kind: message})]
        if kind in {"analyze", "text"} and "detector" not in begins:  # The session itself can begin.
            *_, answer = stub.SegmentSession(iter(prompts))
            told(answer.error, begins, cure)
        else:
            session = "segmenter: this server has no model that can segment; "
            told(refusal(lambda: list(stub.SegmentSession(iter(prompts)))), session, cure)


def test_rest(case: tuple):
    """400 with the same details, in JSON and as a form."""
    _, url, message, begins, cure = case
    kind = kind_of(message)
    path = f"{url}/v1/{PATHS.get(kind, kind)}"
    answer = httpx.post(path, content=json_format.MessageToJson(with_picture(message)), timeout=PATIENCE_S)
    assert answer.status_code == 400
    told(json_format.ParseDict(answer.json(), Status()), begins, cure)
    fields = {
        name: [json_format.MessageToJson(each) if isinstance(each, Message) else str(each).lower() for each in values]
        for name, values in ((field.name, _listed(value)) for field, value in message.ListFields())
    }
    picture = {"image.content": ("cat.png", b"\x89PNG\r\n\x1a\n")}
    answer = httpx.post(path, data=fields, files=picture, timeout=PATIENCE_S)
    told(json_format.ParseDict(answer.json(), Status()), begins, cure)


def test_overlays_over_rest(scorer_url: str):
    """A file in, and the same refusal out."""
    for query, begins in (
        ("?phrases=cat", "detector: "),
        ("?boxes=1&boxes=1&boxes=9&boxes=9", "segmenter: "),
        ("", "segmenter: "),
    ):
        answer = httpx.post(f"{scorer_url}/v1/overlay{query}", content=b"\x89PNG\r\n\x1a\n", timeout=PATIENCE_S)
        assert answer.status_code == 400
        told(json_format.ParseDict(answer.json(), Status()), f"{begins}this server has no model that can ", SMALL)


def _listed(value: object) -> list[object]:
    return [value] if isinstance(value, str | bool) else list(value)


def ask(client: Client | AsyncClient, message: Message) -> object:
    """What the client's own method for it gives."""
    match message:
        case pb2.SegmentByTextRequest():
            exemplars = [(1, 1, 9, 9)] if message.exemplars else None
            return client.segment_text(PIXELS, list(message.phrases), rewrite=message.rewrite, exemplars=exemplars)
        case pb2.SegmentByBoxRequest():
            return client.segment_box(PIXELS, (1, 1, 9, 9))
        case pb2.SegmentByPointsRequest():
            return client.segment_points(PIXELS, [(3, 3)])
        case pb2.AnalyzeImageRequest():
            return client.analyze(PIXELS, list(message.concepts), classifier=message.classifier)
    return client.segment_everything(PIXELS)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_client(case: tuple, kind: str):
    """The error's text begins with what was wrong, and its traceback shows nothing of what lies below the client."""
    address, _, message, begins, cure = case

    async def ask_async() -> object:
        async with AsyncClient(address) as client:
            return await ask(client, message)

    def ask_sync() -> object:
        with Client(address) as client:
            return ask(client, message)

    with pytest.raises(cutout_client.FailedPreconditionError) as caught:
        asyncio.run(ask_async()) if kind == "asyncio" else ask_sync()
    assert caught.value.reason == "NO_MODEL_FOR_TASK"
    assert_plain(caught.value, begins, cure)


def assert_plain(error: cutout_client.CutoutError, begins: str, cure: str) -> None:
    assert str(error).startswith(begins)
    assert cure in str(error)
    assert isinstance(error.__context__, grpc.RpcError)
    shown = "".join(traceback.format_exception(error))
    assert shown.count("Traceback") == 1
    assert "/grpc/" not in shown
    assert shown.splitlines()[-1].startswith(f"cutout_client.errors.FailedPreconditionError: {begins}")


def test_client_streams(server: RunningServer):
    """Streams and pictures from words as well."""
    with Client(server.address) as client:
        with pytest.raises(cutout_client.FailedPreconditionError) as caught:
            list(client.stream(PIXELS, concepts=["a cat", "a dog"]))
        assert_plain(caught.value, "classifier: this server has no model that can classify; ", SMALL)
        with pytest.raises(cutout_client.FailedPreconditionError) as caught:
            client.generate("a cat")
        assert_plain(
            caught.value,
            "generator: this server has no model that can generate; ",
            "`cutout serve --profile builtin --models stable-diffusion-1.5` (extra 'generate')",
        )


async def test_async_client_streams(server: RunningServer):
    """The same with asyncio."""
    async with AsyncClient(server.address) as client:
        with pytest.raises(cutout_client.FailedPreconditionError) as caught:
            await client.stream(PIXELS, concepts=["a cat", "a dog"]).result()
        assert_plain(caught.value, "classifier: this server has no model that can classify; ", SMALL)


def test_sessions_live_on(server: RunningServer):
    """A prompt without a model for it raises in plain words; the next one is answered."""
    with Client(server.address) as client, client.session(PIXELS) as session:
        with pytest.raises(cutout_client.FailedPreconditionError) as caught:
            session.analyze(["a cat", "a dog"])
        assert str(caught.value).startswith("classifier: this server has no model that can classify; ")
        assert session.box((1, 1, 20, 20)).image.width == 32


def test_generation(server: RunningServer, gateway_url: str):
    """Over gRPC, streamed and over REST; what is to be done with the pictures is looked at before any is made."""
    begins, cure = "generator: this server has no model that can generate; ", "--models stable-diffusion-1.5"
    request = generation_service_pb2.GenerateImageRequest(prompts=["a cat"])
    with server.channel() as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        told(refusal(lambda: stub.GenerateImage(request)), begins, cure)
        streamed = generation_service_pb2.StreamGenerationRequest(request=request)
        told(refusal(lambda: list(stub.StreamGeneration(streamed))), begins, cure)
    answer = httpx.post(f"{gateway_url}/v1/generate", content=json_format.MessageToJson(request), timeout=PATIENCE_S)
    told(json_format.ParseDict(answer.json(), Status()), begins, cure)


def test_command_line(server: RunningServer, photos: dict[str, Photo], tmp_path):
    """One line on stderr and exit status 1."""
    (tmp_path / "cat.jpg").write_bytes(photos["chelsea"].jpeg)
    done = cutout(server.address, "analyze", tmp_path / "cat.jpg", "--concept", "a cat", "a dog", code=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("cutout: error: cat.jpg: classifier: this server has no model that can classify; ")
    assert SMALL in line
    done = cutout(server.address, "generate", "a cat", "--out", tmp_path, code=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("cutout: error: generator: this server has no model that can generate; ")
