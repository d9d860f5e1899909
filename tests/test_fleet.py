"""Which of several servers a call goes to, and what becomes of a call whose server fails."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import httpx
import numpy as np
import pytest
from client_fixtures import ScriptedServer, scripted_server
from conftest import RunningServer, run_server
from conftest import Stubs as RunningStubs
from cutout.v1 import model_service_pb2, segmentation_service_pb2
from cutout_client import AsyncClient, Client, CutoutError, ImageId, InternalError
from cutout_client.retrying import retried_async
from cutout_client.transport import Stubs
from cutout_common import addresses
from cutout_common.addresses import Addresses
from cutout_common.failover import MAX_UNTOLD, Course, Losses
from cutout_common.fleet import Fleet
from cutout_common.routing import Place
from cutout_common.status import ErrorDetails
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from waiting import PATIENCE_S, wait_until

from tools import free_port

PIXELS = np.zeros((4, 4, 3), np.uint8)
BOX = (0, 0, 2, 2)
KEYS = [f"{number:032x}" for number in range(3000)]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def fleet(count: int) -> Fleet:
    made = Fleet()
    made.become([f"10.0.0.{number}:50051" for number in range(count)])
    return made


def owners(among: Fleet) -> dict[str, str]:
    """Whose each picture is while there is no load."""
    found = {}
    for key in KEYS:
        member = among.pick(Place(key))
        with among.busy(member):
            found[key] = member.address
    return found


def test_a_server_that_comes_takes_its_own_share_alone():
    """Every server has about as many pictures, and a new one takes from each what it gets, and no more."""
    four = fleet(4)
    before = owners(four)
    assert all(600 < count < 900 for count in Counter(before.values()).values())
    four.become([*dict.fromkeys(member.address for member in four), "10.0.0.9:50051"])
    moved = {key for key, owner in owners(four).items() if owner != before[key]}
    assert 480 < len(moved) < 720
    assert all(owner == "10.0.0.9:50051" for key, owner in owners(four).items() if key in moved)


def test_no_server_gets_more_than_its_share():
    """Of calls about one picture that are under way together no server has a quarter more than the mean."""
    three = fleet(3)
    for _ in range(300):
        three.pick(Place(KEYS[0]))
    assert max(member.in_flight for member in three) <= 126
    assert min(member.in_flight for member in three) > 0


def test_a_server_that_failed_is_tried_by_one_call_at_a_time():
    """It is left alone first, then one call goes to it, and all when that has succeeded."""
    two = fleet(2)
    failed = two.pick(Place(KEYS[0]))
    two.failed(failed)
    failed.in_flight = 0
    assert two.pick(Place(KEYS[0])) is not failed
    failed.rests_until = 0.0
    assert two.pick(Place(KEYS[0])) is failed
    assert two.pick(Place(KEYS[0])) is not failed
    failed.failed = False
    assert two.pick(Place(KEYS[0])) is failed


@pytest.fixture
def scripts() -> Iterator[list[ScriptedServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(scripted_server()) for _ in range(2)]


def all_of(scripts: list[ScriptedServer]) -> str:
    return ",".join(script.address for script in scripts)


def calls(scripts: list[ScriptedServer]) -> list[str]:
    return [call for script in scripts for call in script.calls]


async def ask_async(address: str) -> None:
    async with AsyncClient(address) as client:
        await client.segment_box(PIXELS, BOX)


def ask(address: str) -> None:
    with Client(address) as client:
        client.segment_box(PIXELS, BOX)


def ask_rest(address: str) -> None:
    with GatewayThread(GatewaySettings(server_address=address)) as gateway:
        image = {"tensor": {"height": 4, "width": 4, "channels": 3, "data": "AAAA" * 16}}
        body = {"image": image, "boxes": [{"xMax": 2, "yMax": 2}]}
        answer = httpx.post(f"{gateway.url}/v1/segment:box", json=body, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text


ASKING = pytest.mark.parametrize(
    "ask", [ask, lambda address: asyncio.run(ask_async(address)), ask_rest], ids=["client", "asyncio", "gateway"]
)


@ASKING
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (UNAVAILABLE, "DRAINING"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_FOUND"),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ],
)
def test_a_server_that_refuses_is_not_waited_for(
    ask, code: grpc.StatusCode, reason: str, scripts: list[ScriptedServer]
):
    """Whichever of the two refuses, the other one answers, at once; one of another version has other models."""
    refusal = (code, "not now", ErrorDetails(reason, retry_after_s=PATIENCE_S))
    for refusing, other in (scripts, scripts[::-1]):
        refusing.failures[:] = [refusal] * 4
        before = len(other.calls)
        ask(all_of(scripts))
        assert len(other.calls) == before + 1
        assert len(refusing.failures) >= 3, "it was asked twice"
        refusing.failures.clear()


def test_a_call_that_lost_its_server_does_not_run_into_the_next_loss(scripts: list[ScriptedServer]):
    """What ends one server may be ending others, which are soon seen to be gone; a refusal waits for nothing."""

    def pause(failure: tuple[grpc.StatusCode, str, ErrorDetails | None]) -> float | None:
        scripts[0].failures[:] = [failure]
        course = Course(fleet(3), Place(KEYS[0]), Losses(), rounds=3)
        with grpc.insecure_channel(scripts[0].address) as channel, pytest.raises(grpc.RpcError) as raised:
            RunningStubs.over(channel).segmentation.SegmentByBox(segmentation_service_pb2.SegmentByBoxRequest())
        return course.failed(course.next(), raised.value)

    assert pause((UNAVAILABLE, "Socket closed", None)) > 0
    assert pause((UNAVAILABLE, "not now", ErrorDetails("DRAINING"))) == 0


@ASKING
@pytest.mark.parametrize(
    "said",
    [
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
        "upstream connect error or reset before headers. retried and the latest reset reason: connection failure",
        "no healthy upstream",
    ],
)
def test_servers_that_balancers_could_not_reach_are_not_lost(ask, said: str, scripts: list[ScriptedServer]):
    """Two balancers say so for as long as they have not noticed which servers are gone; no server had the call."""
    for script in scripts:
        script.failures[:] = [(UNAVAILABLE, said, None)]
    ask(all_of(scripts))
    assert sum(len(script.calls) for script in scripts) == 3


@ASKING
def test_a_model_that_no_server_has_is_told(ask, scripts: list[ScriptedServer]):
    """Each is asked once, and the caller hears what they said."""
    for script in scripts:
        script.failures[:] = [(grpc.StatusCode.NOT_FOUND, "no model is called x", ErrorDetails("MODEL_NOT_FOUND"))] * 4
    with pytest.raises((CutoutError, AssertionError), match="no model is called x"):
        ask(all_of(scripts))
    assert [len(script.calls) for script in scripts] == [1, 1]


@ASKING
def test_a_server_that_is_not_there_costs_a_call_nothing(ask, scripts: list[ScriptedServer]):
    """Whichever of the addresses it is, another one answers, and the call is made once."""
    gone = f"127.0.0.1:{free_port()}"
    for address in (f"{gone},{scripts[0].address}", f"{scripts[0].address},{gone}"):
        ask(address)
    assert calls(scripts) == ["SegmentByBox", "SegmentByBox"]


def test_a_picture_is_stored_anew_when_its_server_is_gone(photos):
    """By the client itself, once, wherever it has the picture; who has the id alone is told what to do."""
    jpeg = photos["chelsea"].jpeg
    box = (60, 20, 400, 290)
    with ExitStack() as stack:
        first = stack.enter_context(run_server())
        port = free_port()
        client = stack.enter_context(Client(f"{first.address},127.0.0.1:{port}"))
        with run_server(port=port) as second:
            with Client(second.address) as direct:
                stored = direct.upload(jpeg)
            expected = client.segment_box(stored, box)[0].mask
            assert first.app.status().stored_images == 0
            assert client.download(stored) == jpeg
        for _ in range(2):
            assert np.array_equal(client.segment_box(stored, box)[0].mask, expected)
        assert np.array_equal(client.stream(stored, boxes=[box]).result()[0].mask, expected)
        with client.session(stored) as session:
            assert np.array_equal(session.box(box)[0].mask, expected)
        assert client.overlay(stored, boxes=[box]).size == (451, 300)
        assert first.app.status().stored_images == 1
        stranger = stack.enter_context(Client(f"{first.address},127.0.0.1:{port}"))
        with pytest.raises(CutoutError, match="upload it again") as gone:
            stranger.segment_box(ImageId(stored.image_id), box)
        assert gone.value.reason == "IMAGE_ELSEWHERE"


async def test_a_picture_is_stored_anew_for_asyncio_too(photos):
    """As by the other client."""
    jpeg, box = photos["chelsea"].jpeg, (60, 20, 400, 290)
    port = free_port()
    with run_server() as first:
        async with AsyncClient(f"127.0.0.1:{port},{first.address}") as client:
            with run_server(port=port) as second:
                async with AsyncClient(second.address) as direct:
                    stored = await direct.upload(jpeg)
                expected = (await client.segment_box(stored, box))[0].mask
            for _ in range(2):
                assert np.array_equal((await client.segment_box(stored, box))[0].mask, expected)
            async with client.session(stored) as session:
                assert np.array_equal((await session.box(box))[0].mask, expected)
            assert first.app.status().stored_images == 1


def test_a_name_stands_for_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch, scripts: list[ScriptedServer]):
    """Servers that come to a name are found while it is used; a name alone, and gRPC's own lists, are one server."""
    found = ["127.0.0.1"]

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "servers.test"
        return [(socket.AF_INET, None, None, "", (ip, port)) for ip in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(addresses, "LOOK_S", 0.0)
    name = Addresses("dns:///servers.test:50051")
    assert name.now() == ("127.0.0.1:50051",)
    assert name.host("127.0.0.1:50051") == "servers.test"
    found.append("::1")
    wait_until(lambda: name.now() == ("127.0.0.1:50051", "[::1]:50051"))
    assert not Addresses("localhost:50051").are_many
    assert not Addresses("ipv4:10.0.0.1:50051,10.0.0.2:50051").are_many
    port = scripts[0].address.rpartition(":")[2]
    with Client(f"dns:///servers.test:{port}") as client:
        client.segment_box(PIXELS, BOX)
    assert calls(scripts) == ["SegmentByBox"]


@pytest.mark.parametrize(("lost", "retries", "asked"), [(2, 3, 3), (9, 3, MAX_UNTOLD), (9, 0, 1)])
async def test_a_refusal_that_grpc_has_lost_is_asked_for_again(
    lost: int, retries: int, asked: int, server: RunningServer
):
    """grpc.aio tells an error of its own when a server ends a call while it writes. Told again and again, it stands.

    So it does at once where nothing is to be asked again.
    """
    tries = 0

    async def attempt(stubs: Stubs) -> int:
        nonlocal tries
        tries += 1
        if tries <= lost:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, "Internal error from Core")
        return len((await stubs.models.ListModels(model_service_pb2.ListModelsRequest())).models)

    async with AsyncClient(server.address, retries=retries) as client:
        calls = client._calls
        asking = retried_async(calls.call(PATIENCE_S, ""), calls.link(), attempt)
        if lost < asked:
            assert await asking == 1
        else:
            with pytest.raises(InternalError):
                await asking
    assert tries == asked
