"""Live sessions outlive their servers: what was said is said again to another one, and nothing is answered twice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunningServer, run_server
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_client import (
    AsyncClient,
    Client,
    DeadlineError,
    Frame,
    NotFoundError,
    OverloadedError,
    TrackedFrame,
    TrackPrompt,
    UnavailableError,
    live_state,
)
from cutout_client.cli import console, main
from cutout_client.live_state import LiveState
from cutout_client.tracked import beginning
from cutout_client.transport import Call
from cutout_client.video import VideoWriter
from test_service_tracking import SIDE, iou, picture, place, squares, truth
from waiting import PATIENCE_S, wait_until

from tools import free_port

FRAMES = 14
ENDS_AT = 7  # The server, once this frame is answered; up to four more are on their way then.
# IoU with the masks of a session that nothing disturbed. Where the frame with the prompt is held no more, the objects
# begin at their masks in the oldest frame that is, without what the tracker had learnt before. That moves outlines by
# less than a pixel, and a tenth of an object's pixels lie on its outline.
LIKE = 0.9
Answers = list[tuple[int, bool, dict[int, np.ndarray | None]]]


def box(index: int) -> tuple[int, ...]:
    top, left = place(index)
    return left, top, left + SIDE, top + SIDE


def background(index: int) -> TrackPrompt:
    return TrackPrompt(mask=~truth(index))


def frames() -> Iterator[Frame]:
    """The second object begins later, and the third is removed on the way."""
    for index in range(FRAMES):
        said = {2: {5: background(2)}, 3: {9: TrackPrompt(box=box(3))}}.get(index, {})
        yield Frame(picture(index), said, timestamp_s=index / 30, index=2 * index)


def said_of(live: Any, found: TrackedFrame) -> None:
    if found.index == 8 and not found.corrected:
        live.correct(8, {1: TrackPrompt(mask=truth(4))})
        live.remove([9])


def kept(found: TrackedFrame) -> tuple[int, bool, dict[int, np.ndarray | None]]:
    assert found.timestamp_s == found.index / 60
    return found.index, found.corrected, {each.object_id: each.mask for each in found}


def follow(address: str, held_frames: int, on: Callable[[int], None] = lambda index: None) -> tuple[Answers, int]:
    answers = []
    with (
        Client(address, timeout_s=PATIENCE_S) as client,
        client.live(frames(), boxes=box(0), held_frames=held_frames) as live,
    ):
        for found in live:
            answers.append(kept(found))
            said_of(live, found)
            if not found.corrected:
                on(found.index // 2)
    return answers, live.resumed


async def follow_async(address: str, held_frames: int, on: Callable[[int], None]) -> tuple[Answers, int]:
    async def camera() -> AsyncIterator[Frame]:
        for each in frames():
            yield each

    answers = []
    async with (
        AsyncClient(address, timeout_s=PATIENCE_S) as client,
        client.live(camera(), boxes=box(0), held_frames=held_frames) as live,
    ):
        async for found in live:
            answers.append(kept(found))
            said_of(live, found)
            if not found.corrected:
                await asyncio.to_thread(on, found.index // 2)
    return answers, live.resumed


def in_any_order(answers: Answers) -> dict[tuple[int, bool], Mapping[int, np.ndarray | None]]:
    """By frame; each was answered once. When a correction is answered depends on what was on its way."""
    assert len({(index, corrected) for index, corrected, _ in answers}) == len(answers) == FRAMES + 1
    assert [index for index, corrected, _ in answers if not corrected] == list(range(0, 2 * FRAMES, 2))
    return {(index, corrected): objects for index, corrected, objects in answers}


@pytest.fixture(scope="module")
def several() -> Iterator[list[RunningServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(run_server()) for _ in range(5)]


@contextmanager
def serving(several: list[RunningServer]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The addresses of those that run, and what stops the one that follows objects."""
    running = [each for each in several if each.stopping is None]

    def end() -> None:
        (holder,) = [each for each in running if each.app.status().tracking.sessions]
        holder.stop()

    yield ",".join(each.address for each in running), end
    wait_until(lambda: not any(each.app.status().tracking.sessions for each in running))


@pytest.mark.parametrize(("kind", "held_frames"), [("client", 16), ("asyncio", 4)])
def test_a_live_session_goes_on_at_another_server(
    server: RunningServer, several: list[RunningServer], kind: str, held_frames: int
):
    """Frame numbers, times and ids stay, nothing is lost or answered twice, and masks are those that would have been.

    They are the same ones while the frames with the prompts are held, else they differ as little as LIKE says.
    """
    undisturbed, _ = follow(server.address, held_frames)
    with serving(several) as (address, end):

        def on(index: int) -> None:
            if index == ENDS_AT:
                end()

        if kind == "client":
            answers, resumed = follow(address, held_frames, on)
        else:
            answers, resumed = asyncio.run(follow_async(address, held_frames, on))
    assert resumed == 1
    expected, found = in_any_order(undisturbed), in_any_order(answers)
    for key, objects in found.items():
        assert objects.keys() - {9} == expected[key].keys() - {9}, key
        for number in objects.keys() & expected[key].keys():
            mask, other = objects[number], expected[key][number]
            if held_frames == 16:
                assert np.array_equal(mask, other)
            assert iou(mask, other) >= LIKE, (key, number)
    assert found[2 * (FRAMES - 1), False].keys() == {1, 5}


def test_words_are_looked_for_at_another_server_too(several: list[RunningServer]):
    """At once, and then again in each n-th frame; what they find gets ids that were not given before."""
    with (
        serving(several) as (address, end),
        Client(address, timeout_s=PATIENCE_S) as client,
        client.live(map(squares, range(12)), phrases=["blue", "red"], phrases_every=2) as live,
    ):
        followed = []
        for found in live:
            followed.append([each.object_id for each in found])
            if found.index == 0:
                end()
    assert followed[0] == [1]
    assert followed[-1] == [1, 2]
    assert live.names == {1: "blue", 2: "red"}
    assert live.resumed == 1


def test_words_that_another_server_cannot_look_for_refuse_no_frame_there():
    """They are due at once there, and that is no reason to answer a frame less."""
    with Client("localhost:1") as client:
        call = client._calls.call(None, "")
        state = LiveState(*beginning({"phrases": "blue", "phrases_every": 3}), call)

    def sent(number: int) -> pb2.Frame:
        state.say(state.read(picture(number)))
        state.begin(call, number)
        return state.next().request.frame

    first = sent(0)
    state.answered(pb2.TrackObjectsResponse(frame={"frame_index": 0, "found": {}}))
    second = sent(1)
    assert [list(each.phrases) for each in (first, second)] == [["blue"]] * 2
    assert [each.phrases_optional for each in (first, second)] == [False, True]


def test_the_command_says_that_it_went_on_at_another_server(
    several: list[RunningServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """In one line, before the frame that the other one answered first."""
    path, told = tmp_path / "cup.mp4", []
    with VideoWriter(path) as writer:
        for index in range(FRAMES):
            writer.write(picture(index))
    with serving(several) as (address, end):

        def write_json(content: Mapping[str, Any]) -> None:
            told.append(content["frame"])
            if content["frame"] == 0:
                end()

        monkeypatch.setattr(console, "write_json", write_json)
        flags = ["--box", ",".join(map(str, box(0))), "--json", "--timeout", str(PATIENCE_S), "--server", address]
        assert main(["track", str(path), *flags]) == 0
    assert told == list(range(FRAMES))
    (line,) = capsys.readouterr().err.splitlines()
    assert "went on at another" in line


def test_frames_that_were_uploaded_are_sent_to_another_server():
    """Where the client has them; where it has ids alone it says which frame, and what would help."""
    port = free_port()
    with ExitStack() as stack:
        client = stack.enter_context(Client(f"127.0.0.1:{port}", timeout_s=PATIENCE_S))
        with run_server(port=port):
            uploaded = [client.upload(picture(index)) for index in range(6)]
            whole = stack.enter_context(client.live(uploaded, boxes=box(0)))
            ids = stack.enter_context(client.live([each.image_id for each in uploaded], boxes=box(0)))
            assert next(whole).index == next(ids).index == 0
        with run_server(port=port) as another:
            rest = list(whole)
            assert [each.index for each in rest] == [1, 2, 3, 4, 5]
            assert iou(rest[-1][0].mask, truth(5)) > 0.6
            with pytest.raises(
                NotFoundError, match=r"look at frame \d again: no image .* upload it again, or give"
            ) as lost:
                list(ids)
            assert lost.value.reason == "IMAGE_ELSEWHERE"
            assert another.app.status().stored_images == 0


@pytest.mark.parametrize("kind", ["client", "asyncio"])
def test_frames_that_another_server_stores_go_along(server: RunningServer, several: list[RunningServer], kind: str):
    """Every frame is answered once, in order, though the first ones are refused, and one behind them is answered."""
    other = next(each for each in several if each.stopping is None)
    with Client(server.address, timeout_s=PATIENCE_S) as client:
        uploaded = [client.upload(picture(index)) for index in range(FRAMES)]
    given = [picture(0), *uploaded[1:4], picture(4), *uploaded[5:]]

    async def follow_all() -> tuple[Answers, int]:
        async with AsyncClient(other.address, timeout_s=PATIENCE_S) as client:
            live = client.live(given, boxes=box(0), resume=False)
            return [(each.index, {o.object_id: o.mask for o in each}) async for each in live], live.resumed

    if kind == "asyncio":
        answers, resumed = asyncio.run(follow_all())
    else:
        with Client(other.address, timeout_s=PATIENCE_S) as client:
            live = client.live(given, boxes=box(0), resume=False)
            answers, resumed = [(each.index, {o.object_id: o.mask for o in each}) for each in live], live.resumed
    assert [index for index, _ in answers] == list(range(FRAMES))
    assert all(iou(objects[1], truth(index)) > 0.6 for index, objects in answers)
    assert resumed == 0
    assert other.app.status().stored_images == 0


def test_ids_that_another_server_stores_are_refused_one_by_one(server: RunningServer, several: list[RunningServer]):
    """Nobody but that server has the pixels; the session goes on with the frames that it can see."""
    other = next(each for each in several if each.stopping is None)
    with Client(server.address, timeout_s=PATIENCE_S) as client:
        lost = client.upload(picture(1)).image_id
    with (
        Client(other.address, timeout_s=PATIENCE_S) as client,
        client.live([picture(0), lost, picture(2)], boxes=box(0)) as live,
    ):
        assert next(live).index == 0
        with pytest.raises(NotFoundError, match="another one stores it") as refused:
            next(live)
        assert refused.value.reason == "IMAGE_ELSEWHERE"
        assert [each.index for each in live] == [2]


def test_what_is_not_to_be_resumed_is_not_and_what_cannot_be_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """At once if the caller wants it so, and after a bounded time, though the client has no timeout."""
    with (
        run_server() as server,
        Client(server.address, timeout_s=None) as client,
        client.live(map(picture, range(9)), boxes=box(0), resume=False) as brittle,
        client.live(map(picture, range(9)), boxes=box(0)) as patient,
    ):
        assert next(brittle).index == next(patient).index == 0
        monkeypatch.setattr(live_state, "_LIMIT_S", 1.5)
        server.stop().result(PATIENCE_S)
        for live in (brittle, patient):
            with pytest.raises((UnavailableError, DeadlineError)) as lost:
                list(live)
            assert (lost.value.reason == "DRAINING") == (live is brittle)
            assert live.resumed == 0


def test_a_live_session_opens_once_there_is_room(monkeypatch: pytest.MonkeyPatch):
    """A full server says when to come back, and who opens a session does, for as long as the client waits."""
    full, pause_s = set(), Call.pause_s
    monkeypatch.setattr(Call, "pause_s", lambda call, error: full.add(call.request_id) or pause_s(call, error))

    async def follow_both() -> list[int]:
        async with AsyncClient(server.address, timeout_s=PATIENCE_S) as other:
            return [each.index async for each in other.live(map(picture, range(2)), boxes=box(0), request_id="second")]

    with (
        run_server(max_sessions=1) as server,
        Client(server.address, timeout_s=PATIENCE_S) as client,
        Client(server.address, timeout_s=None) as hasty,
        ThreadPoolExecutor(2) as pool,
    ):
        with client.live(map(picture, range(9)), boxes=box(0)) as live:
            assert next(live).index == 0
            first = pool.submit(list, client.live(map(picture, range(2)), boxes=box(0), request_id="first"))
            second = pool.submit(asyncio.run, follow_both())
            wait_until(lambda: full >= {"first", "second"} or first.done() or second.done())
            assert not second.done(), second.result()
            monkeypatch.setattr(live_state, "_LIMIT_S", 0.5)
            with pytest.raises(OverloadedError):
                next(hasty.live(map(picture, range(2))))
        assert [each.index for each in first.result()] == second.result() == [0, 1]
