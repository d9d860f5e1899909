"""What sessions remember of objects counts in the memory budget of their device, as models do."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from clip_checkpoints import write_clip
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import model_service_pb2
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_common.status import unpack
from cutout_server.pipelines.track import Tracking
from test_service_tracking import Live, boxed, frame
from waiting import wait_until

MODELS = [{"name": name, "family": "builtin"} for name in ("follows", "rests")]


def sizes() -> tuple[int, int]:
    """Bytes of a model, and of what a session remembers of one object after a frame."""
    with run_server(models=MODELS) as server, server.channel() as channel:
        live = Live(channel, tracker="follows")
        remembered = live.ask(frame(0, boxed(1))).frame.memory_bytes
        live.end()
        return server.app.status().devices[0].models["follows"], remembered


def loaded(server: RunningServer) -> set[str]:
    return set(server.app.status().devices[0].models)


@pytest.fixture(scope="module", name="sizes")
def measured() -> tuple[int, int]:
    return sizes()


def test_models_leave_for_what_is_remembered(sizes: tuple[int, int]):
    """The one that follows stays; with the session's end there is room for the other again, and not before."""
    model, remembered = sizes
    budget = 2 * model + remembered // 2
    with run_server(models=MODELS, memory_budget_bytes=budget) as server, server.channel() as channel:
        assert loaded(server) == {"follows", "rests"}
        live = Live(channel, tracker="follows")
        assert live.ask(frame(0, boxed(1))).frame.objects
        assert loaded(server) == {"follows"}
        assert live.ask(frame(1)).frame.objects
        live.end()
        wait_until(lambda: server.app.status().tracking.memory_bytes == 0)
        Stubs.over(channel).models.LoadModel(model_service_pb2.LoadModelRequest(name="rests"))
        assert loaded(server) == {"follows", "rests"}


def test_no_more_is_remembered_than_there_is_room_for(sizes: tuple[int, int]):
    """An object too many is refused, and the session goes on."""
    model, remembered = sizes
    budget = model + remembered + remembered // 2
    with run_server(models=MODELS, memory_budget_bytes=budget, preload=False) as server, server.channel() as channel:
        live = Live(channel, tracker="follows", held_frames=1)
        assert live.ask(frame(0, boxed(1))).frame.objects
        refused = live.ask(frame(1, boxed(2))).error
        assert unpack(refused).reason == "TRACKING_MEMORY"
        assert [each.object_id for each in live.ask(frame(2)).frame.objects] == [1]
        live.end()


@pytest.mark.parametrize("held", [1, 4])
def test_an_object_is_refused_where_it_begins_and_in_no_frame_after(held: int):
    """There is room for what two come to take, and for three in their first frame; what is refused is named."""
    with run_server() as server, server.channel() as channel:
        live = Live(channel, held_frames=held)
        at_first = live.ask(frame(0, boxed(1))).frame.memory_bytes
        grown = server.app.status().tracking.reserved_bytes
        live.end()
        wait_until(lambda: server.app.status().tracking.reserved_bytes == 0)
    limit = 2 * grown + grown // 2
    assert (3 * at_first < limit) == (held > 1)
    with run_server(max_tracking_bytes=limit) as server, server.channel() as channel:
        live = Live(channel, held_frames=held)
        refused = live.ask(frame(0, boxed(1), boxed(2), boxed(7))).error
        assert unpack(refused).reason == "TRACKING_MEMORY"
        assert "of 0 objects, with that of 1, 2, 7, would" in refused.message
        assert live.ask(frame(1, boxed(1), boxed(2))).frame.objects
        reserved = server.app.status().tracking.reserved_bytes
        assert reserved == 2 * grown
        refused = live.ask(pb2.TrackObjectsRequest(correct={"frame_index": 1, "prompts": [boxed(7)]})).error
        assert unpack(refused).reason == "TRACKING_MEMORY"
        assert "of 2 objects, with that of 7, would" in refused.message
        for number in range(2, 8):
            assert [each.object_id for each in live.ask(frame(number)).frame.objects] == [1, 2]
            assert server.app.status().tracking.reserved_bytes == reserved
        live.end()


@pytest.mark.slow
def test_a_model_that_has_no_room_beside_it_is_refused(sizes: tuple[int, int], tmp_path: Path):
    """It comes when the session has ended."""
    wide = {"name": "wide", "family": "clip", "checkpoint": str(write_clip(tmp_path, intermediate_size=20_000))}
    with run_server(models=[wide]) as server:
        size = server.app.status().devices[0].models["wide"]
    assert size > sizes[0] + sizes[1]
    settings = {"models": [*MODELS, wide], "memory_budget_bytes": size + sizes[1] // 2, "preload": False}
    with run_server(**settings) as server, server.channel() as channel:
        models = Stubs.over(channel).models
        live = Live(channel, tracker="follows")
        assert live.ask(frame(0, boxed(1))).frame.objects
        with pytest.raises(grpc.RpcError) as refused:
            models.LoadModel(model_service_pb2.LoadModelRequest(name="wide"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        live.end()
        wait_until(lambda: server.app.status().tracking.memory_bytes == 0)
        models.LoadModel(model_service_pb2.LoadModelRequest(name="wide"))
        assert loaded(server) == {"wide"}


async def test_every_frame_is_given_back_though_the_session_is_cancelled_as_it_closes():
    """Its deadline has passed, say, and its caller leaves while a frame's last work is waited for."""
    closing, goes_on = asyncio.Event(), asyncio.Event()
    given_back: list[int] = []

    async def last_work() -> None:
        closing.set()
        await goes_on.wait()

    tracking = Tracking(*[SimpleNamespace()] * 8)
    for index in range(3):
        room = AsyncExitStack()
        room.callback(given_back.append, index)
        room.push_async_callback(last_work)
        tracking._held[index] = SimpleNamespace(room=room)
    closed = asyncio.ensure_future(tracking.close())
    await closing.wait()
    closed.cancel()
    goes_on.set()
    await asyncio.gather(closed, return_exceptions=True)
    assert sorted(given_back) == [0, 1, 2]
