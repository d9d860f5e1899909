"""The clients follow objects against the real server."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from conftest import RunningServer
from cutout_client import AsyncClient, Client, Frame, InvalidRequestError, TrackedFrame, TrackPrompt
from test_service_tracking import SIDE, SIZE, iou, picture, place, truth
from waiting import wait_until


def box(index: int) -> tuple[int, ...]:
    top, left = place(index)
    return left, top, left + SIDE, top + SIDE


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def assert_followed(answers: list[TrackedFrame]) -> None:
    assert [answer.index for answer in answers] == [0, 1, 2, 3]
    for answer in answers:
        assert [found.object_id for found in answer] == [1]
        assert iou(answer[0].mask, truth(answer.index)) > 0.6
        assert answer[0].area == answer[0].mask.sum()
        assert answer.timings.track_ms > 0
        assert set(np.unique(answer.labels())) == {0, 1}
        assert answer.overlay().size == SIZE[::-1]


def test_frames_go_in_and_objects_come_out(client: Client):
    """As they come, of any iterator of pictures."""
    with client.live(map(picture, range(4)), boxes=box(0)) as live:
        answers = list(live)
    assert live.tracker == "builtin"
    assert_followed(answers)


def test_the_async_client_does_the_same(server: RunningServer):
    """Of iterators of both kinds."""

    async def camera() -> AsyncIterator[np.ndarray]:
        for index in range(4):
            yield picture(index)

    async def follow(frames: object) -> list[TrackedFrame]:
        async with AsyncClient(server.address) as client:
            return [frame async for frame in client.live(frames, boxes=box(0))]

    for frames in (camera(), map(picture, range(4))):
        assert_followed(asyncio.run(follow(frames)))


def test_objects_are_added_corrected_and_removed_on_the_way(client: Client):
    """By frames that say so, and by what is said of frames that were answered."""
    frames = [picture(0), Frame(picture(1), {5: TrackPrompt(mask=truth(1))}, timestamp_s=0.5), *map(picture, (2, 3, 4))]
    answers = []
    with client.live(frames, prompts={1: TrackPrompt(points=[(36, 40)])}, mask_formats=["png"]) as live:
        for answer in live:
            answers.append(answer)
            if answer.index == 1 and not answer.corrected:
                live.correct(1, {1: TrackPrompt(mask=truth(1))})
            if answer.corrected:
                live.remove([5])
    (corrected,) = [answer for answer in answers if answer.corrected]
    assert iou(corrected[0].mask, truth(1)) > 0.95
    assert [[found.object_id for found in answer] for answer in answers if answer.index <= 1] == [[1], [1, 5], [1]]
    assert answers[1].timestamp_s == 0.5


def test_what_is_said_of_the_last_frame_is_answered(client: Client, server: RunningServer):
    """Though all frames have gone by then; and whoever says it too late is told so."""
    answers = []
    with client.live([picture(0)], boxes=box(0)) as live:
        for answer in live:
            answers.append(answer)
            if len(answers) < 3:
                live.correct(0, {1: TrackPrompt(mask=truth(0))})
        with pytest.raises(ValueError, match="have ended"):
            live.remove([1])
    assert [answer.corrected for answer in answers] == [False, True, True]

    async def follow() -> list[bool]:
        corrected = []
        async with AsyncClient(server.address) as other:
            stream = other.live([picture(0)], boxes=box(0))
            async for answer in stream:
                corrected.append(answer.corrected)
                if len(corrected) < 3:
                    stream.correct(0, {1: TrackPrompt(mask=truth(0))})
        return corrected

    assert asyncio.run(follow()) == [False, True, True]


def test_a_refused_frame_raises_and_the_others_are_answered(client: Client):
    """Where its answer would be."""
    frames = [picture(0), picture(1)[:50], picture(2)]
    with client.live(frames, boxes=box(0)) as live:
        assert next(live).index == 0
        with pytest.raises(InvalidRequestError, match=r"frame\.image"):
            next(live)
        assert next(live).index == 2
        assert list(live) == []


@pytest.mark.parametrize("newest", [False, True])
def test_a_stream_that_is_left_ends_the_session(client: Client, server: RunningServer, newest: bool):
    """Though frames would come for ever; and none is taken beyond those few that are ahead."""
    taken = itertools.count()
    with client.live((picture(next(taken) % 4) for _ in itertools.count()), boxes=box(0), newest=newest) as live:
        answers = [next(live) for _ in range(3)]
    assert next(taken) <= (3 + 4 if not newest else 200) + sum(len(answer.dropped) for answer in answers) + 64 * newest
    wait_until(lambda: server.app.status().tracking.sessions == 0)


def test_what_the_callers_frames_raise_is_raised(client: Client, server: RunningServer):
    """Behind the answers to those before."""

    def broken() -> Iterator[np.ndarray]:
        yield picture(0)
        raise OSError("the camera is gone")

    live = client.live(broken(), boxes=box(0))
    assert next(live).index == 0
    with pytest.raises(OSError, match="camera"):
        next(live)

    async def follow() -> None:
        async with AsyncClient(server.address) as other:
            async for _ in other.live(broken(), boxes=box(0)):
                pass

    with pytest.raises(OSError, match="camera"):
        asyncio.run(follow())


def test_arguments_are_checked_here(client: Client):
    """Before anything is sent."""
    with pytest.raises(ValueError, match="other ids"):
        client.live([], boxes=box(0), prompts={1: TrackPrompt(box=box(0))})
    with pytest.raises(ValueError, match="mask_formats"):
        client.live([], mask_formats=["gif"])
    with pytest.raises(ValueError, match="bool"):
        next(client.live([picture(0)], prompts={1: TrackPrompt(mask=np.zeros(SIZE))}))
