"""Many frames take no more than a few: what there is after each is counted, through the real stack.

The frames are tiny, and following an object costs next to nothing there; what is kept of frames and objects is kept as
for any others. Server and client share a process, so that nothing of either is left out of the count.
"""

import gc
import sys
import types
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import psutil
import pytest
from conftest import RunningServer, run_server
from cutout_client import Client, TrackPrompt
from cutout_server.models.builtin import tracking
from cutout_server.models.builtin.appearance import Appearance
from cutout_server.pools.remembered import SessionMemory
from videos import repeated, video
from waiting import PATIENCE_S

COUNTS = [(100, 500), pytest.param((300, 2_000), marks=pytest.mark.slow)]
SIZE = (32, 48)
BOX = (6, 6, 30, 26)
OBJECTS = 2
# Frames that are on their way come and go, and what waits to be told of them: so there may be more objects of a class,
# by this part of the frames between, and more blocks of memory, by so many.
PART, BLOCKS = 0.2, 1500
# What abstract classes remember of the types that `isinstance` has asked them about, which is of the whole process.
OF_TYPES = {weakref.ReferenceType, types.BuiltinFunctionType}
RESIDENT_BYTES = 32 << 20  # A tenth of what the frames of the slow test would take as the server keeps them.


@dataclass
class Held:
    """What there is after a frame.

    Attributes:
        told: What the server's own counters say.
        objects: How many of each class of Cutout's, of asyncio's and of containers there are.
        blocks: How many blocks of memory Python has allocated.
        resident: Bytes, of this process and of those that decode videos.
    """

    told: dict[str, float]
    objects: Counter[str]
    blocks: int
    resident: int


@dataclass
class Counted:
    """Counts after some of the frames that a server answers, within its event loop."""

    server: RunningServer
    at: tuple[int, int]
    frames: int = 0
    held: list[Held] = field(default_factory=list)
    own: int = 0  # Blocks that the counts themselves take.

    def answered(self) -> None:
        """A frame was."""
        self.frames += 1
        if self.frames in self.at:
            self.held.append(self._held())

    def _held(self) -> Held:
        gc.collect()
        before = sys.getallocatedblocks()
        status = self.server.app.status()
        told = {
            "sessions": status.tracking.sessions,
            "objects": status.tracking.objects,
            "memory_bytes": status.tracking.memory_bytes,
            "reserved_bytes": status.tracking.reserved_bytes,
            "embeddings": status.devices[0].embeddings.bytes,
            "stored": status.stored_images,
        }
        kinds = (type(each) for each in gc.get_objects())
        objects = Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds if kind not in OF_TYPES)
        this = psutil.Process()
        resident = sum(each.memory_info().rss for each in (this, *this.children(recursive=True)))
        held = Held(told, objects, before - self.own, resident)
        self.own += sys.getallocatedblocks() - before
        return held

    def assert_no_more(self) -> None:
        """After the many frames as after the few."""
        few, many = self.held
        most = PART * (self.at[1] - self.at[0])
        assert many.told == few.told
        assert many.told["memory_bytes"] > 0
        more = {kind: count - few.objects[kind] for kind, count in many.objects.items()}
        assert {kind: count for kind, count in more.items() if count > most} == {}
        assert many.blocks - few.blocks < BLOCKS
        assert many.resident - few.resident < RESIDENT_BYTES


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Counted]:
    """A server that follows objects at no cost, each where it was before."""

    def stays(tracker: object, embedding: object, pixels: object, memory: tracking.BuiltinMemory, motions: object):
        return tracking._logits(memory.mask), 1.0, 1.0

    monkeypatch.setattr(tracking.BuiltinTracker, "_followed", stays)
    monkeypatch.setattr(Appearance, "likeness", lambda *_: 0.0)
    monkeypatch.setattr(Appearance, "learned", lambda appearance, *_: appearance)
    answered = SessionMemory.answered
    with run_server(embeddings_cache_bytes=64 << 20) as server:
        counts = Counted(server, request.param)

        def count(memory: SessionMemory) -> None:
            answered(memory)
            counts.answered()

        monkeypatch.setattr(SessionMemory, "answered", count)
        yield counts


def pictures_of_noise() -> Iterator[np.ndarray]:
    """Without end, each another one."""
    random = np.random.default_rng(0)
    while True:
        yield random.integers(0, 255, (*SIZE, 3), np.uint8)


@pytest.mark.parametrize("counted", COUNTS, indirect=True)
def test_a_live_session_holds_no_more_after_many_frames(counted: Counted):
    """Of the server's and of the client's, with a correction now and then."""
    with Client(counted.server.address, timeout_s=PATIENCE_S) as client:
        live = client.live(pictures_of_noise(), boxes=[BOX] * OBJECTS, held_frames=4, non_overlapping=True)
        with live:
            for found in live:
                if found.index >= counted.at[-1] - 1:
                    break
                if found.index % 100 == 50 and not found.corrected:
                    live.correct(found.index, {2: TrackPrompt(box=BOX)})
    counted.assert_no_more()


@pytest.mark.parametrize("counted", COUNTS, indirect=True)
def test_a_stored_video_holds_no_more_after_many_frames(counted: Counted):
    """Nor does the process that decodes it."""
    frames = [each for _, each in zip(range(20), pictures_of_noise(), strict=False)]
    data = repeated(video(frames, group=5), times=counted.at[-1] // len(frames))
    with Client(counted.server.address, timeout_s=PATIENCE_S) as client:
        stored = client.upload_video(data)
        assert stored.frame_count == counted.at[-1]
        prompts = {0: {number: TrackPrompt(box=BOX) for number in range(OBJECTS)}}
        with client.track_video(stored, prompts=prompts) as stream:
            assert sum(1 for _ in stream) == counted.at[-1]
    counted.assert_no_more()
