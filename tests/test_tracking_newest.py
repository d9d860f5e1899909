"""Live sessions in which the newest frame goes on: those that it overtook are named, whatever becomes of it."""

import threading

import numpy as np
import pytest
from conftest import RunningServer, run_server
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_client import Client, InvalidRequestError
from cutout_client.live_state import LiveState
from cutout_client.tracked import beginning
from cutout_server.pipelines.track import Tracking
from cutout_server.types import FrameRequest, TrackedFrame
from test_service_tracking import Live, boxed, frame, picture
from waiting import until, wait_until


@pytest.fixture
def goes_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set no frame is worked on."""
    goes_on, work = threading.Event(), Tracking.frame

    async def held(tracking: Tracking, request: FrameRequest) -> TrackedFrame:
        await until(goes_on.is_set)
        return await work(tracking, request)

    monkeypatch.setattr(Tracking, "frame", held)
    return goes_on


def test_frames_that_come_too_fast_give_way_to_the_newest(server: RunningServer):
    """Those without prompts that were overtaken are named, and every frame is either answered or named."""
    with server.channel() as channel:
        live = Live(channel, drop_policy=pb2.TrackingOpen.DROP_POLICY_NEWEST)
        before = server.app.status().tracking
        live.send(*(frame(index, *([boxed(1, index)] if index in {0, 8} else [])) for index in range(13)))
        answers = [answer.frame for answer in live.end()]
        answered = [answer.frame_index for answer in answers]
        dropped = [index for answer in answers for index in answer.dropped_frames]
        assert sorted(answered) == answered
        assert sorted([*answered, *dropped]) == list(range(13))
        assert {0, 8, 12} <= set(answered)
        after = server.app.status().tracking
        assert after.frames - before.frames == len(answered)
        assert after.dropped_frames - before.dropped_frames == len(dropped)


def test_dropped_frames_are_named_though_the_last_frame_is_refused(server: RunningServer, goes_on: threading.Event):
    """By the refusal, as no frame comes behind it; the Python client then waits for nothing."""
    registry = server.app.parts.metrics.registry

    def taken() -> float | None:
        return registry.get_sample_value("cutout_bytes_in_hand", {"what": "messages"})

    with server.channel() as channel:
        live = Live(channel, drop_policy=pb2.TrackingOpen.DROP_POLICY_NEWEST)
        first, overtaken, last = frame(0, boxed(1)), frame(1), frame(2, pixels=np.zeros((50, 60, 3), np.uint8))
        live.send(first, overtaken)
        wait_until(lambda: (taken() or 0) >= first.ByteSize() + overtaken.ByteSize())
        live.send(last)
        wait_until(lambda: (taken() or 0) < first.ByteSize() + overtaken.ByteSize())
        goes_on.set()
        answers = live.end()
    assert [answer.WhichOneof("message") for answer in answers] == ["frame", "error"]
    assert [list(answer.dropped_frames) for answer in answers] == [[], [1]]
    with Client("localhost:1") as client:
        state = LiveState(*beginning({}, newest=True), client._calls.call(None, ""))
    for number in range(3):
        state.say(state.read(picture(number)))
        state.next()
    state.all_taken = True
    assert state.answered(answers[0]) is not None
    with pytest.raises(InvalidRequestError, match=r"frame\.image"):
        state.answered(answers[1])
    state.end()


def test_frames_that_are_read_ahead_count_to_the_bytes_in_hand(goes_on: threading.Event):
    """The one that is worked on and those that wait; each until it is done."""
    frames = [frame(index, boxed(1, index)) for index in range(4)]
    with run_server() as server, server.channel() as channel:
        registry = server.app.parts.metrics.registry
        live = Live(channel, drop_policy=pb2.TrackingOpen.DROP_POLICY_NEWEST)
        live.send(*frames)

        def in_hand() -> float | None:
            return registry.get_sample_value("cutout_bytes_in_hand", {"what": "messages"})

        in_work_and_waiting = sum(message.ByteSize() for message in frames[:3])
        wait_until(lambda: (in_hand() or 0) >= in_work_and_waiting)
        goes_on.set()
        assert [answer.frame.frame_index for answer in live.end()] == [0, 1, 2, 3]
        wait_until(lambda: in_hand() == 0)
