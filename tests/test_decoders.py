"""Pictures decoded in processes of their own: as in a thread, and nothing is left behind."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from cutout_server import call_context
from cutout_server.callers.accounts import NOBODY
from cutout_server.errors import InvalidRequestError, UnavailableError
from cutout_server.images import decode_process
from cutout_server.images import decoder_processes as decoders_module
from cutout_server.images.decode_process import Work, Worker
from cutout_server.images.decoder_processes import Decoders
from cutout_server.images.store import StoredVideo
from cutout_server.images.videos import Videos
from cutout_server.imaging.decode import ImageLimits, decode, open_file
from cutout_server.imaging.video import VideoFrame, VideoLimits
from cutout_server.imaging.video_file import VideoFile
from decode_processes import DecodeProcesses
from test_imaging_malformed import FILES
from videos import video
from waiting import PATIENCE_S, until, wait_until

LIMITS = ImageLimits(max_bytes=40 << 20, max_pixels=1_000_000)
# It is for whoever decodes to find out; the header tells nothing.
MIDDLE = len(FILES["png"]) // 2
DAMAGED = FILES["png"][:MIDDLE] + bytes(9) + FILES["png"][MIDDLE + 9 :]

# What the server does, as far as its processes go.
PARENT = """
import asyncio, sys
from cutout_server.imaging.decode import ImageLimits, open_file
from cutout_server.images.decoder_processes import Decoders
from test_decoders import Observer
async def main():
    decoders = Decoders(1, 30, Observer())
    await decoders.decode(open_file(sys.stdin.buffer.read(), ImageLimits(1 << 20, 10_000)))
    print(next(iter(decoders._workers))._process.pid, flush=True)
    await asyncio.sleep(1e6)
asyncio.run(main())
"""


class Observer:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.why: list[str] = []
        self.pieces = 0

    def queue(self, where: str, waiting: Callable[[], int]) -> None:
        self.waiting = waiting

    def worked(self, where: str, waited_s: float, seconds: float) -> None:
        self.pieces += 1

    def given_up(self, why: str) -> None:
        self.why.append(why)


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
async def decoders(observer: Observer, decode_processes: DecodeProcesses) -> AsyncIterator[Decoders]:
    decoders = Decoders(1, 30, observer)
    yield decoders
    await decoders.close()
    assert not decode_processes()


async def test_pixels_and_refusals_are_those_of_a_thread(
    decoders: Decoders, observer: Observer, decode_processes: DecodeProcesses
):
    """Of every kind of file, whole and damaged, upright, with its key; by one process after the other's work."""
    for content in FILES.values():
        expected, opened = decode(content, LIMITS), open_file(content, LIMITS)
        picture = await decoders.decode(opened)
        assert np.array_equal(picture.pixels, expected.pixels)
        assert picture.pixels.flags.writeable
        assert picture.key == expected.key
        assert (await decoders.decode(opened, "known")).key == "known"
        assert len(decode_processes()) == 1
    with pytest.raises(InvalidRequestError) as expected:
        decode(DAMAGED, LIMITS, field="chunk.data")
    with pytest.raises(InvalidRequestError) as refused:
        await decoders.decode(open_file(DAMAGED, LIMITS, field="chunk.data"))
    assert refused.value.violations == expected.value.violations
    assert refused.value.reason == expected.value.reason
    assert len(decode_processes()) == 1
    assert observer.why == []
    assert observer.pieces == 2 * len(FILES) + 1


@dataclass(frozen=True)
class Shades:
    """A video of four frames."""

    videos: Videos
    stored: StoredVideo
    expected: list[VideoFrame]

    async def check(self, number: int) -> None:
        """That a frame is the one that was asked for."""
        frame = await self.videos.frame(self.stored, number, "field")
        assert np.array_equal(frame.pixels, self.expected[number].pixels)


@pytest.fixture
def shades(decoders: Decoders, tmp_path: Path) -> Shades:
    path, limits = tmp_path / "video.mp4", VideoLimits(10_000, 10, 10.0)
    path.write_bytes(video(np.full((32, 32, 3), 60 * shade, np.uint8) for shade in range(4)))
    with VideoFile(path, limits, "field") as opened:
        expected = list(opened.frames(range(4), (32, 32)))
        stored = StoredVideo("vid", "", NOBODY, path, 0, "", opened.describe(), 0.0, 0.0)
    return Shades(Videos(SimpleNamespace(), decoders, decoders, limits, max_bytes=0), stored, expected)


async def test_one_process_reads_one_frame_after_the_other(shades: Shades, decode_processes: DecodeProcesses):
    """Of a stored video, as it decodes one picture after the other: none ends with its frame."""
    processes = set()
    for number in (2, 0, 3):
        await shades.check(number)
        processes.update(process.pid for process in decode_processes())
    assert len(processes) == 1


@pytest.mark.parametrize("answers", [1, 2], ids=["opened", "a frame"])
async def test_a_process_that_has_more_to_say_is_nobody_elses(
    answers: int, shades: Shades, monkeypatch: pytest.MonkeyPatch, decode_processes: DecodeProcesses
):
    """Whoever leaves between two frames takes the process along: the next one gets what it has asked for."""
    said, left = threading.Event(), threading.Event()
    working = Worker.working

    @contextmanager
    def held_up(worker: Worker, work: Work) -> Iterator[None]:
        nonlocal answers
        with working(worker, work):
            yield
        answers -= 1
        if not answers:
            said.set()
            assert left.wait(PATIENCE_S)

    async def read() -> None:
        async with shades.videos.read(shades.stored, range(4)) as frames:
            async for _ in frames:
                pass

    monkeypatch.setattr(Worker, "working", held_up)
    reading = asyncio.create_task(read())
    assert await asyncio.to_thread(said.wait, PATIENCE_S)
    (first,) = decode_processes()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    left.set()
    await shades.check(3)
    assert first not in decode_processes()


async def read(shades: Shades, numbers: Sequence[int], order: list[int]) -> None:
    async with shades.videos.read(shades.stored, numbers) as frames:
        async for frame in frames:
            assert np.array_equal(frame.pixels, shades.expected[frame.number].pixels)
            order.append(frame.number)


async def test_those_who_read_videos_share_a_process(shades: Shades, decoders: Decoders):
    """Each has all of its frames, and nobody waits until another has had all."""
    order: list[int] = []
    await asyncio.gather(read(shades, range(4), order), read(shades, range(3, -1, -1), order))
    assert sorted(order) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert order not in ([0, 1, 2, 3, 3, 2, 1, 0], [3, 2, 1, 0, 0, 1, 2, 3])
    assert not decoders._working


async def test_whoever_takes_in_nothing_lends_its_process(shades: Shades, decoders: Decoders):
    """To those who wait for one, and to nobody else; then it has the frames that are left."""
    order: list[int] = []
    shades.videos._turn_s = float("inf")
    call_context.begin(call_context.Call("id", "caller", float("inf")))
    resting = call_context.current().resting
    async with shades.videos.read(shades.stored, range(4)) as frames:
        first = await anext(frames)
        (reading,) = resting
        assert not reading.rest()
        other = asyncio.create_task(read(shades, range(4), order))
        await until(lambda: decoders.is_wanted)
        assert reading.rest()
        await other
        rest = [frame async for frame in frames]
    assert [frame.number for frame in (first, *rest)] == order == [0, 1, 2, 3]
    assert resting == []
    assert not decoders._working


async def test_a_frame_that_is_worked_on_keeps_no_process(shades: Shades, decoders: Decoders):
    """However long that takes: others read theirs meanwhile."""
    order: list[int] = []
    async with shades.videos.read(shades.stored, range(4)) as frames:
        first = await anext(frames)
        await asyncio.wait_for(read(shades, range(4), order), PATIENCE_S)
        rest = [frame async for frame in frames]
    assert [frame.number for frame in (first, *rest)] == order == [0, 1, 2, 3]
    assert not decoders._working


async def test_none_begins_before_it_is_needed(decoders: Decoders, decode_processes: DecodeProcesses):
    """Nor do more than are needed."""
    assert not decode_processes()
    await asyncio.gather(*(decoders.decode(open_file(FILES["png"], LIMITS)) for _ in range(3)))
    assert len(decode_processes()) == 1


async def test_idle_ones_leave(decoders: Decoders, monkeypatch: pytest.MonkeyPatch, decode_processes: DecodeProcesses):
    """With their memory; the next picture has a new one."""
    monkeypatch.setattr(decoders_module, "_IDLE_S", 0.01)
    for _ in range(2):
        await decoders.decode(open_file(FILES["png"], LIMITS))
        await until(lambda: not decode_processes())


async def test_one_that_died_idle_costs_nothing(
    decoders: Decoders, observer: Observer, decode_processes: DecodeProcesses
):
    """The next picture has a new one."""
    await decoders.decode(open_file(FILES["png"], LIMITS))
    (process,) = decode_processes()
    process.kill()
    (worker,) = decoders._workers
    await until(lambda: not worker.is_alive)
    await decoders.decode(open_file(FILES["png"], LIMITS))
    assert observer.why == []


@pytest.mark.parametrize("answer", ["", "x", "{}", '{"key": 1}', '{"violations": 3}'])
async def test_what_a_process_says_is_not_trusted(
    answer: str, decoders: Decoders, observer: Observer, monkeypatch: pytest.MonkeyPatch
):
    """One that was taken over by its picture can refuse it, or make others of its pixels, and no more."""
    said = f"import sys, os; sys.stdin.buffer.readline(); os.write(0, {answer!r}.encode() + b'\\n')"
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, "-c", said))
    with pytest.raises(UnavailableError):
        await decoders.decode(open_file(FILES["png"], LIMITS))
    assert observer.why == ["died"]


async def test_a_process_that_may_still_be_asked_is_nobody_elses(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch, decode_processes: DecodeProcesses
):
    """Whoever leaves before the thread has asked takes the process along: the next one begins another."""
    begun, left = threading.Event(), threading.Event()
    working = Worker.working

    @contextmanager
    def late(worker: Worker, work: Work) -> Iterator[None]:
        begun.set()
        assert left.wait(PATIENCE_S)
        with working(worker, work):
            yield

    monkeypatch.setattr(Worker, "working", late)
    opened = open_file(FILES["png"], LIMITS)
    asking = asyncio.create_task(decoders.decode(opened))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    (first,) = decode_processes()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    left.set()
    assert (await decoders.decode(opened)).key
    assert first not in decode_processes()


async def test_callers_take_turns(decoders: Decoders):
    """One picture of each in a round."""
    done: list[str] = []

    async def work(caller: str) -> None:
        call_context.begin(call_context.Call("id", caller, float("inf")))
        await decoders.decode(open_file(FILES["png"], LIMITS))
        done.append(caller)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(work(caller) for caller in ("many", "many", "many", "one", "two")))
    assert done == ["many", "one", "two", "many", "many"]


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", PARENT]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as popen:
        yield popen
        popen.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they end with their picture")
def test_they_die_with_the_server(parent: subprocess.Popen[bytes]):
    """However it dies, and whatever they are doing: one that was stopped ends, too."""
    parent.stdin.write(FILES["png"])
    parent.stdin.close()
    worker = psutil.Process(int(parent.stdout.readline()))
    worker.suspend()
    parent.kill()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
