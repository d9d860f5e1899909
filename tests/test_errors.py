"""Every code but that of wrong fields, through the real stack, by gRPC and REST: reason, retry delay, request id."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import httpx
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_service_pb2, mask_pb2, model_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import ErrorDetails, unpack
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from probe_family import Probe, probe_family
from refusals import BOX, GOOD, METHODS, boxes, image, png, refusal, text
from waiting import PATIENCE_S, wait_until


@dataclass(frozen=True)
class Elsewhere:
    """A server with a model whose timing the test controls, one seat, two keys, and its gateway."""

    server: RunningServer
    stubs: Stubs
    url: str
    probe: Probe


KEY = "0123456789abcdef"
AUTH = (("x-api-key", KEY),)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    probe = Probe()
    settings = {
        "max_requests_per_device": 1,
        "default_deadline_s": PATIENCE_S,
        "api_keys": [{"caller": "one", "key": KEY, "roles": ["operator"]}, {"caller": "two", "key": KEY[::-1]}],
        "image_store_bytes": 2_000_000,
        "max_upload_bytes": 1_000_000,
        "session_idle_s": 0.3,
    }
    with (
        probe_family(probe) as model,
        run_server(models=[model, {"name": "builtin", "family": "builtin"}], **settings) as server,
        server.channel() as channel,
        GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
    ):
        yield Elsewhere(server, Stubs.over(channel), gateway.url, probe)
        probe.gate.set()


def rest_status(answer: httpx.Response) -> ErrorDetails:
    body = answer.json()
    return unpack(
        json_format.ParseDict({"code": body["code"], "message": body["message"], "details": body["details"]}, Status())
    )


@pytest.mark.parametrize(
    "metadata", [(), (("x-api-key", ""),), (("x-api-key", KEY[:-1]),), (("authorization", "Bearer nope"),)]
)
def test_unauthenticated(elsewhere: Elsewhere, metadata: tuple[tuple[str, str], ...]):
    """Without a valid key nothing is done; an empty or partial key is not valid."""
    request = model_service_pb2.ListModelsRequest()
    code, _, details = refusal(lambda: elsewhere.stubs.models.ListModels(request, metadata=metadata))
    assert (code, details.reason) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
    answer = httpx.get(f"{elsewhere.url}/v1/models", headers=dict(metadata), timeout=PATIENCE_S)
    assert (answer.status_code, rest_status(answer).reason) == (401, "API_KEY_INVALID")


@pytest.mark.parametrize("metadata", [AUTH, (("authorization", f"Bearer {KEY}"),)])
def test_a_key_lets_in(elsewhere: Elsewhere, metadata: tuple[tuple[str, str], ...]):
    """A key is accepted in either header, over gRPC and REST."""
    assert elsewhere.stubs.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata).models
    assert httpx.get(f"{elsewhere.url}/v1/models", headers=dict(metadata), timeout=PATIENCE_S).status_code == 200


def test_permission_denied(elsewhere: Elsewhere):
    """An address is not fetched unless the operator turned that on."""
    request = image(uri="http://192.0.2.1/cat.jpg")
    code, message, details = refusal(lambda: elsewhere.stubs.segmentation.SegmentByBox(request, metadata=AUTH))
    assert (code, details.reason) == (grpc.StatusCode.PERMISSION_DENIED, "DISABLED_BY_OPERATOR")
    assert "image.uri" in message
    answer = httpx.post(
        f"{elsewhere.url}/v1/segment:box",
        content=json_format.MessageToJson(request),
        headers=dict(AUTH),
        timeout=PATIENCE_S,
    )
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:{port}/x.jpg", "http://localhost/x.jpg", "http://169.254.169.254/latest", "file:///etc/hosts"],
)
def test_private_addresses_are_never_fetched(uri: str, server: RunningServer):
    """With URIs on, addresses inside the network and other schemes are refused by name."""
    port = server.address.split(":")[1]
    with run_server(allow_uris=True, uri_hosts=("Example.org",)) as fetching, fetching.channel() as channel:
        request = image(uri=uri.format(port=port))
        code, message, _ = refusal(lambda: Stubs.over(channel).segmentation.SegmentByBox(request))
    assert code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
    assert "image.uri" in message


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (
            lambda s: s.images.GetImage(image_service_pb2.GetImageRequest(image_id="img_x"), metadata=AUTH),
            "images/img_x",
        ),
        (lambda s: s.models.GetModel(model_service_pb2.GetModelRequest(name="sam9"), metadata=AUTH), "models/sam9"),
    ],
)
def test_not_found(elsewhere: Elsewhere, call: Callable[[Stubs], object], path: str):
    """What does not exist is NOT_FOUND, and the text says what does."""
    code, _, details = refusal(lambda: call(elsewhere.stubs))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.reason in {"IMAGE_NOT_FOUND", "MODEL_NOT_FOUND"}
    assert httpx.get(f"{elsewhere.url}/v1/{path}", headers=dict(AUTH), timeout=PATIENCE_S).status_code == 404


def test_a_stored_image_is_found_by_its_owner_alone(elsewhere: Elsewhere):
    """Another key's upload does not exist."""
    upload = iter([image_service_pb2.UploadImageRequest(chunk={"data": png()})])
    image_id = elsewhere.stubs.images.UploadImage(upload, metadata=AUTH).image_id
    request = image_service_pb2.GetImageRequest(image_id=image_id)
    assert list(elsewhere.stubs.images.GetImage(request, metadata=AUTH))
    code, *_ = refusal(lambda: elsewhere.stubs.images.GetImage(request, metadata=(("x-api-key", KEY[::-1]),)))
    assert code is grpc.StatusCode.NOT_FOUND


def test_resource_exhausted_by_others(elsewhere: Elsewhere):
    """A full queue answers at once with a delay; over REST 429 with Retry-After."""
    request = boxes()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(elsewhere.stubs.segmentation.SegmentByBox, request, metadata=AUTH)
        wait_until(lambda: elsewhere.probe.passes)
        code, _, details = refusal(lambda: elsewhere.stubs.segmentation.SegmentByBox(request, metadata=AUTH))
        answer = httpx.post(
            f"{elsewhere.url}/v1/segment:box",
            content=json_format.MessageToJson(request),
            headers=dict(AUTH),
            timeout=PATIENCE_S,
        )
        elsewhere.probe.gate.set()
        assert first.result().segmentation.objects
    assert (code, details.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert details.retry_after_s is not None
    assert details.retry_after_s >= 0.1
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_resource_exhausted_by_size(elsewhere: Elsewhere):
    """An upload beyond the bound is refused without a delay: a retry would not help."""
    chunks = (image_service_pb2.UploadImageRequest(chunk={"data": bytes(300_000)}) for _ in range(5))
    code, message, details = refusal(lambda: elsewhere.stubs.images.UploadImage(chunks, metadata=AUTH))
    assert (code, details.reason, details.retry_after_s) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "UPLOAD_TOO_LARGE",
        None,
    )
    assert "1000000 bytes" in message


def test_deadline_exceeded(elsewhere: Elsewhere):
    """The caller's deadline is kept, and its work is not begun once it has passed."""
    request = boxes()
    with ThreadPoolExecutor(1) as pool:
        hasty = pool.submit(elsewhere.stubs.segmentation.SegmentByBox, request, metadata=AUTH, timeout=0.2)
        with pytest.raises(grpc.RpcError) as late:
            hasty.result()
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    status = model_service_pb2.GetStatusRequest()
    wait_until(lambda: elsewhere.stubs.models.GetStatus(status, metadata=AUTH).devices[0].requests == 0)
    elsewhere.probe.gate.set()
    assert elsewhere.stubs.segmentation.SegmentByBox(request, metadata=AUTH).segmentation.objects
    assert elsewhere.probe.count("decode") == 1


def test_a_call_without_a_deadline_gets_one():
    """The server's own deadline ends a call that brought none, and says so."""
    probe = Probe()
    with (
        probe_family(probe) as model,
        run_server(models=[model], default_deadline_s=0.3) as server,
        server.channel() as channel,
    ):
        code, message, details = refusal(lambda: Stubs.over(channel).segmentation.SegmentByBox(boxes()))
        probe.gate.set()
    assert (code, details.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert "0.3 s" in message


def test_no_deadline_is_longer_than_the_servers_greatest():
    """A caller who asks for hours gets what the operator allows, and is told."""
    probe = Probe()
    with (
        probe_family(probe) as model,
        run_server(models=[model], default_deadline_s=0.1, max_deadline_s=0.3) as server,
        server.channel() as channel,
    ):
        segment = Stubs.over(channel).segmentation.SegmentByBox
        code, message, _ = refusal(lambda: segment(boxes(), timeout=36_000))
        probe.gate.set()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "0.3 s, the most" in message


def test_a_callers_own_deadline_is_told_as_its_own(elsewhere: Elsewhere):
    """Whichever end notices first, no deadline of the server's is blamed."""
    told = set()
    for attempt in range(500):
        timeout_s = 0.01 + attempt / 2000  # Longer and longer: on a busy machine a short one ends before it is known.
        with pytest.raises(grpc.RpcError) as late:
            elsewhere.stubs.segmentation.SegmentByBox(boxes(), metadata=AUTH, timeout=timeout_s)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if status := rpc_status.from_call(late.value):  # The server was first, which is a matter of chance.
            told.add(unpack(status).reason)
            assert "the deadline that the call came with" in status.message
            break
    assert told == {"DEADLINE_EXCEEDED"}


def test_cancelled_work_is_not_done(elsewhere: Elsewhere):
    """A caller who leaves while it waits costs nothing more."""
    call = elsewhere.stubs.segmentation.SegmentByBox.future(boxes(), metadata=AUTH)
    wait_until(lambda: elsewhere.probe.passes)
    call.cancel()
    status = model_service_pb2.GetStatusRequest()
    wait_until(lambda: elsewhere.stubs.models.GetStatus(status, metadata=AUTH).devices[0].requests == 0)
    elsewhere.probe.gate.set()
    assert elsewhere.stubs.segmentation.SegmentByBox(boxes(), metadata=AUTH).segmentation.objects
    assert elsewhere.probe.count("decode") == 1


def test_what_outlasts_the_drain_is_told_why():
    """A call that is in work still when its time is over ends with the reason of those that come too late."""
    probe = Probe()
    with probe_family(probe) as model, run_server(models=[model], drain_s=0.0) as server, server.channel() as channel:
        accepted = Stubs.over(channel).segmentation.SegmentByBox.future(boxes())
        wait_until(lambda: probe.passes)
        server.stop()
        error = accepted.exception(PATIENCE_S)
        probe.gate.set()
    details = unpack(rpc_status.from_call(error))
    assert (error.code(), details.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert details.retry_after_s


def test_unavailable_while_draining(elsewhere: Elsewhere):
    """Accepted work is finished while new work is refused with a delay."""
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(elsewhere.stubs.segmentation.SegmentByBox, boxes(), metadata=AUTH)
        wait_until(lambda: elsewhere.probe.passes)
        elsewhere.server.stop()
        code, _, details = refusal(lambda: elsewhere.stubs.segmentation.SegmentByBox(boxes(), metadata=AUTH))
        answer = httpx.get(f"{elsewhere.url}/v1/models", headers=dict(AUTH), timeout=PATIENCE_S)
        elsewhere.probe.gate.set()
        assert accepted.result().segmentation.objects
    assert (code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert details.retry_after_s
    assert answer.status_code == 503


def test_failed_precondition(tmp_path):
    """A model whose file is gone says so when it is asked for."""
    checkpoint = tmp_path / "sam2.pt"
    models = [
        {"name": "builtin", "family": "builtin"},
        {"name": "sam", "family": "sam2", "checkpoint": str(checkpoint)},
    ]
    with run_server(models=models, preload=False) as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        code, message, _ = refusal(lambda: stubs.models.LoadModel(model_service_pb2.LoadModelRequest(name="sam")))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "sam2.pt" in message
        with GatewayThread(GatewaySettings(server_address=server.address)) as gateway:
            assert httpx.post(f"{gateway.url}/v1/models/sam:load", json={}, timeout=PATIENCE_S).status_code == 400


def test_internal_says_nothing_but_the_request_id(elsewhere: Elsewhere):
    """The text of an exception that nobody foresaw stays in the log."""
    elsewhere.probe.gate.set()
    secret = boxes(mask_pb2.Box(x_min=13, x_max=15, y_max=9))
    code, message, details = refusal(lambda: elsewhere.stubs.segmentation.SegmentByBox(secret, metadata=AUTH))
    assert (code, details.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "thirteen" not in message + str(details)
    assert details.request_id in message
    answer = httpx.post(
        f"{elsewhere.url}/v1/segment:box",
        content=json_format.MessageToJson(secret),
        headers=dict(AUTH),
        timeout=PATIENCE_S,
    )
    assert answer.status_code == 500
    assert "thirteen" not in json.dumps(answer.json())


def test_unimplemented(elsewhere: Elsewhere):
    """A method that the contract does not have is UNIMPLEMENTED, in the form of all refusals."""
    with elsewhere.server.channel() as channel:
        call = channel.unary_unary("/cutout.v1.SegmentationService/SegmentByMagic")
        code, message, details = refusal(lambda: call(b"", metadata=AUTH))
    assert (code, details.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_FOUND")
    assert "SegmentByMagic" in message


def test_a_silent_session_is_ended(elsewhere: Elsewhere):
    """A session without a message for long enough is ended with a reason."""
    elsewhere.probe.gate.set()
    forever = threading.Event()

    def silent() -> Iterator[pb2.SegmentSessionRequest]:
        yield pb2.SegmentSessionRequest(open=pb2.SessionOpen(image=GOOD))
        forever.wait(PATIENCE_S)

    code, _, details = refusal(lambda: elsewhere.stubs.segmentation.SegmentSession(silent(), metadata=AUTH))
    forever.set()
    assert (code, details.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "SESSION_IDLE")


def test_every_violated_limit_is_the_operators(photos: dict[str, Photo]):
    """Smaller limits in the settings are the ones that requests meet."""
    limits = {"max_prompts": 1, "max_objects": 2, "max_image_bytes": 2_000, "max_image_pixels": 300}
    with run_server(**limits) as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        for request, field in (
            (boxes(BOX, BOX), "boxes"),
            (boxes(max_objects=3), "options.max_objects"),
            (image(content=photos["chelsea"].jpeg), "image.content"),
            (image(content=png(20, 20)), "image.content"),
            (text("face", "eye"), "phrases"),
        ):
            code, _, details = refusal(lambda r=request: getattr(stubs.segmentation, METHODS[type(r)][0])(r))
            assert (code, [v.field for v in details.violations]) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
