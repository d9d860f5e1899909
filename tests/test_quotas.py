"""Quotas: what one caller has used up is refused with the truth about when there is more, and costs nobody else."""

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, image_service_pb2, mask_pb2, model_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import Client, OverloadedError
from cutout_common import channels
from cutout_common.status import ErrorDetails, unpack
from cutout_gateway.settings import GatewaySettings
from cutout_server.callers.accounts import SWEEP, Accounts, party_of
from cutout_server.callers.bucket import BURST_S, Bucket
from cutout_server.callers.quotas import Quotas
from cutout_server.settings import Settings
from gateway_fixtures import GatewayThread
from grpc_status import rpc_status
from PIL import Image as Pillow
from prometheus_client.parser import text_string_to_metric_families
from waiting import PATIENCE_S, wait_until

KEYS = {name: name * 8 for name in ("heavy", "light")}
BOX = mask_pb2.Box(x_min=2, y_min=2, x_max=20, y_max=20)


class Clock:
    """Time that the test makes."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def picture(width: int = 32, height: int = 24) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), "grey").save(file, "PNG")
    return file.getvalue()


def key(name: str) -> list[tuple[str, str]]:
    return [("x-api-key", KEYS[name])]


def calls(server: RunningServer, method: str) -> dict[str, float]:
    """How many calls of a method began, and how many ended with each code."""
    told = httpx.get(server.metrics_url, timeout=PATIENCE_S).text
    return {
        sample.labels.get("grpc_code", "started"): sample.value
        for family in text_string_to_metric_families(told)
        for sample in family.samples
        if sample.name in {"grpc_server_started_total", "grpc_server_handled_total"}
        and sample.labels["grpc_method"] == method
    }


def keyed(**quotas: object) -> dict[str, Any]:
    """Settings by which the quotas are one caller's alone."""
    return {
        "api_keys": [
            {"caller": "heavy", "key": KEYS["heavy"], "quotas": quotas},
            {"caller": "light", "key": KEYS["light"]},
        ]
    }


def refusal(error: grpc.RpcError) -> ErrorDetails:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(error)
    details = unpack(status)
    assert details.reason == "QUOTA_EXCEEDED"
    assert details.metadata["quota"] in status.message
    return details


def test_a_bucket_says_when_it_will_hold_enough():
    """After exactly the time that it tells, and not a moment before, what was refused can be taken."""
    clock = Clock()
    bucket = Bucket(3.0, clock)
    assert [bucket.take(1) for _ in range(int(3 * BURST_S))] == [0] * 30
    delay_s = bucket.take(1)
    assert delay_s == pytest.approx(1 / 3, abs=0.001)
    clock.now += delay_s - 0.002
    assert bucket.take(1) == pytest.approx(0.002, abs=0.001)
    clock.now += 0.002
    assert bucket.take(1) == 0
    assert bucket.take(1) > 0


def test_a_bucket_is_never_too_small():
    """What is more than it holds is taken from a full one, which owes the rest."""
    clock = Clock()
    bucket = Bucket(1.0, clock)
    assert bucket.take(25) == 0
    assert bucket.take(1) == pytest.approx(16)
    clock.now += 16
    assert bucket.take(1) == 0
    clock.now += 25
    assert bucket.is_full
    bucket.change(0.01)  # One at once, whatever the rate.
    assert bucket.take(1) == 0
    assert bucket.take(1) == 100


def test_accounts_of_addresses_are_forgotten_when_they_are_like_new():
    """However many addresses call, those that use nothing take no memory; what one has used stays counted."""
    accounts = Accounts()
    accounts.allow(Quotas(requests_per_s=0.001), {})
    accounts.of("first", "anonymous").request()
    for number in range(3 * SWEEP):
        accounts.of(str(number), "anonymous")
    assert len(accounts) <= 2 * SWEEP
    assert not accounts.of("first", "anonymous").is_idle


def test_settings_say_what_a_key_has_for_itself(tmp_path):
    """What a key leaves out is everybody's, and stays so when the settings are printed and read again."""
    file = tmp_path / "cutout.yaml"
    keys = [{"caller": "heavy", "key": KEYS["heavy"], "quotas": {"sessions": 3}}, {"caller": "b", "sha256": "0" * 64}]
    file.write_text(json.dumps({"quotas": {"sessions": 9, "pixels_per_s": 4}, "api_keys": keys}))
    settings = Settings.load(["--config", str(file)])
    heavy = settings.quotas.but(settings.api_keys[0].quotas)
    assert (heavy.sessions, heavy.pixels_per_s, settings.quotas.but(settings.api_keys[1].quotas).sessions) == (3, 4, 9)
    assert json.loads(json.dumps(settings.model_dump(mode="json")))["api_keys"][0]["quotas"] == {"sessions": 3}
    assert Settings.load(["--quotas.requests-per-s", "5"]).quotas.requests_per_s == 5


def test_keys_of_one_caller_cannot_have_different_quotas():
    """They are the caller's, so that more keys are no way to more."""
    keys = [
        {"caller": "a", "key": name * 4, "quotas": {"sessions": number + 1}}
        for number, name in enumerate(KEYS.values())
    ]
    with pytest.raises(ValueError, match="the keys of a have different quotas"):
        Settings(api_keys=keys)


def test_requests_beyond_the_quota(photos):
    """Refused by name with a true delay, over gRPC and REST, for one caller; the other is served all the while."""
    with (
        run_server(**keyed(requests_per_s=0.2)) as server,
        server.channel() as channel,
        GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
    ):
        models, request = Stubs.over(channel).models, model_service_pb2.ListModelsRequest()
        assert models.ListModels(request, metadata=key("heavy"))
        with pytest.raises(grpc.RpcError) as refused:
            [models.ListModels(request, metadata=key("heavy")) for _ in range(3)]
        details = refusal(refused.value)
        assert details.metadata == {"quota": "requests_per_s", "bound": "0.2", "use": "0.2"}
        assert 0 < details.retry_after_s <= 5
        answer = httpx.get(f"{gateway.url}/v1/models", headers=dict(key("heavy")), timeout=PATIENCE_S)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert answer.json()["details"][0]["metadata"]["quota"] == "requests_per_s"
        for _ in range(20):
            assert models.ListModels(request, metadata=key("light"))
        with Client(server.address, api_key=KEYS["heavy"]) as client:
            assert client.models()  # It waits as long as it is told.
        with Client(server.address, api_key=KEYS["heavy"], retries=0) as client, pytest.raises(OverloadedError) as no:
            [client.models() for _ in range(3)]
        assert (no.value.reason, no.value.metadata["quota"]) == ("QUOTA_EXCEEDED", "requests_per_s")


def test_asking_is_no_request():
    """A gateway asks for its callers before it reads long bodies: that takes nothing from what they may do.

    Nor is it a call that metrics count, until it is turned away or brings a message.
    """
    asked = [*key("heavy"), channels.ASK_FIRST]
    with run_server(**keyed(requests_per_s=0.001)) as server, server.channel() as channel:
        account = server.app.accounts.of("heavy", "heavy")
        ask = channel.stream_unary("/cutout.v1.SegmentationService/SegmentByBox")
        for _ in range(5):
            never = threading.Event()
            call = ask.future(iter(never.wait, True), metadata=asked, timeout=PATIENCE_S)
            assert channels.ASK_FIRST in tuple(call.initial_metadata())
            assert not account.is_idle
            call.cancel()
            never.set()
            wait_until(lambda: account.is_idle)
        assert Stubs.over(channel).models.ListModels(model_service_pb2.ListModelsRequest(), metadata=key("heavy"))
        assert not account.is_idle
        assert calls(server, "SegmentByBox") == {}
        for metadata, message in (([channels.ASK_FIRST], b""), ([*key("light"), channels.ASK_FIRST], b"nothing")):
            with pytest.raises(grpc.RpcError):
                ask(iter([message]), metadata=metadata, timeout=PATIENCE_S)
        assert calls(server, "SegmentByBox") == {"started": 2, "UNAUTHENTICATED": 1, "INVALID_ARGUMENT": 1}


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_server(**keyed(pixels_per_s=100.0, sessions=2, requests_per_s=0.5)) as running:
        yield running


def test_pixels_beyond_the_quota(server: RunningServer):
    """They are counted before the picture is decoded, as files and as tensors; another caller's are read."""
    with server.channel() as channel:
        segment = Stubs.over(channel).segmentation.SegmentByBox
        tensor = image_pb2.RawTensor(height=24, width=32, channels=3, data=bytes(np.zeros((24, 32, 3), np.uint8)))
        first = pb2.SegmentByBoxRequest(image={"content": picture()}, boxes=[BOX])
        assert segment(first, metadata=key("heavy"))
        for image in (image_pb2.Image(content=picture(40, 30)), image_pb2.Image(tensor=tensor)):
            request = pb2.SegmentByBoxRequest(image=image, boxes=[BOX])
            with pytest.raises(grpc.RpcError) as refused:
                segment(request, metadata=key("heavy"))
            details = refusal(refused.value)
            assert (details.metadata["quota"], details.metadata["bound"]) == ("pixels_per_s", "100")
            assert 0 < details.retry_after_s <= 10
            assert segment(request, metadata=key("light"))
        assert segment(first, metadata=key("heavy"))  # It was read before: nothing is decoded.


def opened(stubs: Stubs, name: str, *messages: pb2.SegmentSessionRequest) -> Any:
    """A session's call."""
    first = pb2.SegmentSessionRequest(open={"image": {"content": picture()}})
    return stubs.segmentation.SegmentSession(iter([first, *messages]), metadata=key(name))


def test_prompts_of_sessions_are_requests(server: RunningServer):
    """One too many is answered by the refusal, with its delay, and does not end the session."""
    prompt = pb2.SegmentSessionRequest(box=pb2.SegmentByBoxRequest(boxes=[BOX]))
    with server.channel() as channel:
        answers = list(opened(Stubs.over(channel), "heavy", *[prompt] * 40))
    kinds = [answer.WhichOneof("message") for answer in answers]
    assert len(kinds) == 41
    assert kinds[:5] == ["opened", *["segmentation"] * 4]
    refused = next(answer.error for answer in answers if answer.HasField("error"))
    assert unpack(refused).metadata["quota"] == "requests_per_s"
    assert 0 < unpack(refused).retry_after_s <= 2


def test_open_sessions_beyond_the_quota():
    """One more is refused at once, another caller's is opened, and one that has ended makes room."""
    with run_server(**keyed(sessions=2)) as server, server.channel() as channel:
        stubs, over = Stubs.over(channel), threading.Event()

        def waiting() -> Iterator[pb2.SegmentSessionRequest]:
            yield pb2.SegmentSessionRequest(open={"image": {"content": picture()}})
            over.wait(PATIENCE_S)

        held = [stubs.segmentation.SegmentSession(waiting(), metadata=key("heavy")) for _ in range(2)]
        assert all(next(session).HasField("opened") for session in held)
        with pytest.raises(grpc.RpcError) as refused:
            next(opened(stubs, "heavy"))
        details = refusal(refused.value)
        assert details.metadata == {"quota": "sessions", "bound": "2", "use": "2"}
        assert details.retry_after_s > 0
        assert next(opened(stubs, "light")).HasField("opened")
        held[0].cancel()
        wait_until(lambda: server.app.accounts.of("heavy", "heavy").sessions == 1)
        assert next(opened(stubs, "heavy")).HasField("opened")
        over.set()


@pytest.mark.parametrize(
    "message",
    [
        pb2.SegmentSessionRequest(),
        pb2.SegmentSessionRequest(box={}),
        pb2.SegmentSessionRequest(open={}),
        pb2.SegmentSessionRequest(image_chunk={"last": True}),
    ],
    ids=["empty", "no boxes", "opened again", "a chunk of nothing"],
)
def test_empty_messages_keep_no_session_alive(message: pb2.SegmentSessionRequest):
    """However often they come: the session ends as if nothing did."""

    def messages() -> Iterator[pb2.SegmentSessionRequest]:
        yield pb2.SegmentSessionRequest(open={"image": {"content": picture()}})
        while not over.wait(0.05):
            yield message

    over = threading.Event()
    with run_server(session_idle_s=1.0) as server, server.channel() as channel:
        session = Stubs.over(channel).segmentation.SegmentSession(messages())
        with pytest.raises(grpc.RpcError) as ended:
            list(session)
        over.set()
    assert unpack(rpc_status.from_call(ended.value)).reason == "SESSION_IDLE"


def test_nothing_keeps_a_session_that_does_not_open():
    """Chunks of no bytes are no picture on its way."""

    def messages() -> Iterator[pb2.SegmentSessionRequest]:
        yield pb2.SegmentSessionRequest(open={})
        while not over.wait(0.05):
            yield pb2.SegmentSessionRequest(image_chunk={})

    over = threading.Event()
    with run_server(session_idle_s=1.0) as server, server.channel() as channel:
        with pytest.raises(grpc.RpcError) as ended:
            list(Stubs.over(channel).segmentation.SegmentSession(messages()))
        over.set()
    assert unpack(rpc_status.from_call(ended.value)).reason == "SESSION_IDLE"


def test_quotas_are_read_again_with_the_keys(server: RunningServer):
    """What a caller has used stays counted, and a greater quota is had at once."""
    with server.channel() as channel:
        models, request = Stubs.over(channel).models, model_service_pb2.ListModelsRequest()
        with pytest.raises(grpc.RpcError) as refused:
            [models.ListModels(request, metadata=key("heavy")) for _ in range(100)]
        assert refusal(refused.value).metadata["bound"] == "0.5"
        server.loop.call_soon_threadsafe(server.app.admit, Settings(**keyed(requests_per_s=500.0)))
        wait_until(lambda: server.app.accounts.of("heavy", "heavy").quotas.requests_per_s == 500)
        with Client(server.address, api_key=KEYS["heavy"]) as client:
            for _ in range(50):
                assert client.models()


@pytest.mark.parametrize(
    ("peer", "party"),
    [
        ("ipv4:203.0.113.9:4711", "203.0.113.9"),
        ("ipv4:203.0.113.9", "203.0.113.9"),
        ("ipv6:[::ffff:203.0.113.9]:4711", "203.0.113.9"),
        ("ipv6:[2001:db8:1:2:3::4]:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::9]", "2001:db8:1:2::/64"),
        ("unix:/run/cutout.sock", "unix:/run/cutout.sock"),
    ],
)
def test_who_is_one_caller_where_nobody_has_a_key(peer: str, party: str):
    """An address, from whichever port; of IPv6 its network, as whoever has one has 2^64 of them."""
    assert party_of(peer) == party


def test_each_address_has_quotas_of_its_own():
    """Where nobody has a key, also behind a gateway that is trusted; behind another all are one caller."""
    request = model_service_pb2.ListModelsRequest()
    with run_server(quotas={"requests_per_s": 0.01}, trusted_proxies=["127.0.0.1"]) as server:
        gateways = [
            GatewayThread(GatewaySettings(server_address=server.address, trusted_proxies=trusted))
            for trusted in (["127.0.0.1"], [])
        ]
        with gateways[0] as trusting, gateways[1] as wary, server.channel() as channel:

            def ask(gateway: GatewayThread, address: str) -> int:
                headers = {"x-forwarded-for": address}
                return httpx.get(f"{gateway.url}/v1/models", headers=headers, timeout=PATIENCE_S).status_code

            assert [ask(trusting, "203.0.113.9") for _ in range(2)] == [200, 429]
            assert [ask(trusting, "203.0.113.7") for _ in range(2)] == [200, 429]
            assert [ask(wary, f"203.0.113.{number}") for number in (1, 2)] == [200, 429]
            with pytest.raises(grpc.RpcError) as refused:  # It comes from where the wary gateway's callers did.
                Stubs.over(channel).models.ListModels(request)
            refusal(refused.value)


def test_uploads_beyond_the_quota_are_told_so_over_http():
    """Each is 429, however close the refusal comes upon the beginning of the upload."""
    with (
        run_server(quotas={"requests_per_s": 0.01}) as server,
        GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client,
    ):
        answers = [client.post("/v1/images", content=picture()) for _ in range(30)]
    assert [answer.status_code for answer in answers] == [200, *[429] * 29]
    assert all(answer.json()["details"][0]["reason"] == "QUOTA_EXCEEDED" for answer in answers[1:])


def test_what_callers_use_is_counted_by_their_names(server: RunningServer):
    """Those of the settings and no others, whatever key a stranger shows; refusals by the quota's name."""
    with server.channel() as channel:
        stubs, request = Stubs.over(channel), model_service_pb2.ListModelsRequest()
        prompt = pb2.SegmentSessionRequest(box=pb2.SegmentByBoxRequest(boxes=[BOX]))
        list(opened(stubs, "heavy", *[prompt] * 40))
        for stranger in ("x" * 20, "y" * 20):
            with pytest.raises(grpc.RpcError):
                stubs.models.ListModels(request, metadata=[("x-api-key", stranger)])
        with pytest.raises(grpc.RpcError):
            [stubs.models.ListModels(request, metadata=key("heavy")) for _ in range(100)]
        uploads = iter([image_service_pb2.UploadImageRequest(chunk={"data": picture()})])
        assert stubs.images.UploadImage(uploads, metadata=key("light"))
    page = httpx.get(server.metrics_url, timeout=PATIENCE_S).text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("cutout_caller_")
    }
    assert {dict(labels)["caller"] for _, *labels in samples} == {"heavy", "light", "anonymous"}
    exceeded = ("cutout_caller_quota_exceeded_total", ("caller", "heavy"), ("quota", "requests_per_s"))
    assert samples[exceeded] > 2
    assert samples["cutout_caller_requests_total", ("caller", "anonymous")] == 2
    assert samples["cutout_caller_stored_images", ("caller", "light")] == 1
    assert samples["cutout_caller_stored_images", ("caller", "heavy")] == 0
