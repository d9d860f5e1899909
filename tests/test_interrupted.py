"""Streams whose server is lost in the middle: another one goes on behind what came, or an error says how much came."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy

import httpx
import pytest
from client_fixtures import ScriptedServer, scripted_server
from cutout.v1 import mask_pb2, tracking_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import AsyncClient, Client, CutoutError
from cutout_common.delivered import AnswerChangedError, Delivered
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from test_fleet import BOX, PIXELS
from waiting import PATIENCE_S

Event = pb2.StreamSegmentationResponse
VideoEvent = tracking_service_pb2.TrackVideoResponse
OBJECTS = 4


def answer(count: int = OBJECTS) -> list[Event]:
    """Header, objects with two masks of which one comes in two pieces, summary."""
    events = [Event(header={"image": {"width": 4, "height": 4}})]
    for number in range(count):
        masks = [{"rle": {"size": [4, 4], "counts": "0"}}, {}]
        events.append(Event(object={"prompt_index": number, "predicted_iou": 0.5, "masks": masks}))
        png = mask_pb2.Mask(png=b"picture %d" % number).SerializeToString()
        for first, last in ((png[:5], False), (png[5:], True)):
            events.append(Event(mask_chunk={"mask_index": 1, "data": first, "last": last}))
    return [*events, Event(summary={"object_count": count, "timings": {"total_ms": 3}})]


EVENTS = answer()
Got = tuple[list[int], str]


def ask(address: str, retries: int = 3) -> Got:
    """The objects that came, and the error after them, if any."""
    found: list[int] = []
    with Client(address, retries=retries) as client:
        try:
            found.extend(each.prompt_index for each in client.stream(PIXELS, boxes=[BOX]))
        except CutoutError as error:
            return found, str(error)
    return found, ""


def ask_async(address: str) -> Got:
    async def collect() -> Got:
        found: list[int] = []
        async with AsyncClient(address) as client:
            stream = client.stream(PIXELS, boxes=[BOX])
            try:
                while (each := await anext(stream, None)) is not None:
                    found.append(each.prompt_index)
            except CutoutError as error:
                return found, str(error)
        return found, ""

    return asyncio.run(collect())


def ask_rest(address: str) -> Got:
    with GatewayThread(GatewaySettings(server_address=address)) as gateway:
        image = {"tensor": {"height": 4, "width": 4, "channels": 3, "data": "AAAA" * 16}}
        body = {"box": {"image": image, "boxes": [{"xMax": 2, "yMax": 2}]}}
        lines = httpx.post(f"{gateway.url}/v1/segment:stream", json=body, timeout=PATIENCE_S).text.splitlines()
    said = [json.loads(line) for line in lines]
    failed = [f"{line['error']['message']} {line['error']['details'][0]['reason']}" for line in said if "error" in line]
    events = [line["result"] for line in said if "result" in line]
    if not failed:
        assert [next(iter(event)) for event in events] == [
            {"mask_chunk": "maskChunk"}.get(kind, kind) for kind in (event.WhichOneof("event") for event in EVENTS)
        ]
    objects = [event["object"] for event in events if "object" in event]
    return [each.get("promptIndex", 0) for each in objects], "".join(failed)


ASKING = pytest.mark.parametrize("ask", [ask, ask_async, ask_rest], ids=["client", "asyncio", "gateway"])
Ask = Callable[[str], Got]


@pytest.fixture
def scripts() -> Iterator[list[ScriptedServer]]:
    with ExitStack() as stack:
        both = [stack.enter_context(scripted_server()) for _ in range(2)]
        for script in both:
            script.events = deepcopy(EVENTS)
        yield both


def asked_first(scripts: list[ScriptedServer], ask: Ask) -> tuple[ScriptedServer, ScriptedServer, str]:
    """That of the two to which the picture leads, the other one, and the address of both."""
    address = ",".join(script.address for script in scripts)
    ask(address)
    first, second = sorted(scripts, key=lambda script: not script.calls)
    assert not second.calls
    return first, second, address


@ASKING
@pytest.mark.parametrize("lost_after", [1, 2, 3, 5, 7, len(EVENTS) - 1, len(EVENTS)])
def test_another_server_goes_on_with_a_stream(ask: Ask, lost_after: int, scripts: list[ScriptedServer]):
    """Wherever it broke off, between the pieces of a mask as well, every message comes once; times may be others."""
    first, second, address = asked_first(scripts, ask)
    first.lost_after = lost_after
    second.events[-1].summary.timings.total_ms = 5
    second.events[1].object.predicted_iou = 0.51
    assert ask(address) == (list(range(OBJECTS)), "")
    assert (len(first.calls), len(second.calls)) == (2, 1)


@ASKING
def test_a_stream_does_not_go_on_with_another_answer(ask: Ask, scripts: list[ScriptedServer]):
    """Of a server that says otherwise, or less, nothing is taken, and the error says how much had come."""
    first, second, address = asked_first(scripts, ask)
    for others in ([*EVENTS[:1], *EVENTS[4:]], answer(1)):
        second.events, first.lost_after = others, 8
        found, error = ask(address)
        assert found[:2] == [0, 1]
        assert "ANSWER_CHANGED" in error
        assert f"broke off after {8 if ask is ask_rest else 2} of its parts" in error


@ASKING
def test_a_stream_that_ends_servers_is_given_up(ask: Ask, scripts: list[ScriptedServer]):
    """Two servers are lost with it and no third try is made, though more had come from the second one."""
    first, second, address = asked_first(scripts, ask)
    first.lost_after, second.lost_after = 4, 7
    found, error = ask(address)
    assert found == [0, 1]
    assert "given up after 2 servers were lost" in error
    assert "SERVERS_LOST" in error
    assert f"broke off after {7 if ask is ask_rest else 2} of its parts" in error
    assert (len(first.calls), len(second.calls)) == (2, 1)


def test_a_stream_goes_on_behind_one_address_too(scripts: list[ScriptedServer]):
    """It may stand for several servers, as a balancer's does; without retries the loss is told with what came."""
    script = scripts[0]
    script.lost_after = 7
    found, error = ask(script.address, retries=0)
    assert found == [0, 1]
    assert "UNAVAILABLE" in error
    assert "broke off after 2 of its parts" in error
    assert script.calls == ["StreamSegmentation"]
    found, error = ask(script.address)
    assert found == [0, 1]
    assert "SERVERS_LOST" in error
    assert script.calls == ["StreamSegmentation"] * 3


def test_a_videos_answer_goes_on_however_long_it_took(scripts: list[ScriptedServer]):
    """Its limit is the caller's own for the call, if any: the client's, which is over by then, is for other calls."""
    script = scripts[0]
    frames = [VideoEvent(frame={"frame_index": number}) for number in range(3)]
    script.events, script.lost_after = [VideoEvent(started={"tracker": "one"}), *frames, VideoEvent(summary={})], 2
    with Client(script.address, timeout_s=1e-3) as client, client.track_video("vid", prompts={}) as stream:
        first = next(stream)
        script.lost_after = None
        assert [first.index, *(frame.index for frame in stream)] == [0, 1, 2]
    assert script.calls == ["TrackVideo"] * 2


def repeat(delivered: Delivered, events: list[Event]) -> None:
    """As by a server that goes on and has nothing new to say."""
    delivered.begin()
    for event in events:
        assert not delivered.is_new(event)
    delivered.end()


def test_what_is_compared():
    """All that was said, in its order, but floating point numbers; an answer that ends too early is another one."""
    delivered = Delivered()
    delivered.begin()
    assert all(delivered.is_new(event) for event in EVENTS[:5])
    delivered.begin()
    assert [delivered.is_new(event) for event in EVENTS] == [False] * 5 + [True] * (len(EVENTS) - 5)
    for wrong in (EVENTS[:3], EVENTS[::-1], [*EVENTS[:-1], Event(summary={"object_count": 3})]):
        with pytest.raises(AnswerChangedError):
            repeat(delivered, wrong)
