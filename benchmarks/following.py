"""1, 8 and 64 objects followed through a video: live sessions beside `SAM2VideoPredictor`, and the model in a loop.

python benchmarks/following.py [--model NAME] [--quick] [--json FILE]

All have the same frames, a window that moves over a photograph, and the same boxes in the first of them; they take
turns frame by frame, each in a process of its own. Seconds are worth little on a machine that does other work, too;
processor time, of all threads, still tells which way computes less. The predictor is used as its notebook does: its
frames are JPEG files, all of which it reads before the first mask. The server gets pixels and answers run lengths.

64 objects are followed by the same weights at 256 pixels a side alone: at 1024 a frame of them takes three minutes of
two cores. At 256 an object's frame has a sixteenth of the tokens, so that what is not theirs weighs more.
"""

import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cutout_client import Client
from harness.apart import Step, apart
from harness.photographs import boxes, jpeg, photograph
from harness.plots import Lines
from harness.report import Row, Table
from harness.rounds import Sample, ratio
from harness.scenario import Plan, run
from harness.servers import Running
from harness.small_sam2 import allow, small, small_server
from harness.subjects import Subject, official_video
from numpy.typing import NDArray

SIZE = (480, 640)
COUNTS = (1, 8)
SMALL_SIDE, SMALL_COUNTS = 256, (1, 8, 64)
FRAME_S = 1800  # For a frame, on a machine that does other work, too.
Pixels = NDArray[np.uint8]


def measure(plan: Plan) -> list[Table]:
    """A video for each count; what a frame costs is told of those after the first."""
    length = max(2, plan.count(12, 4))  # The first is not told of.
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "frames"
        files.mkdir()
        for number, pixels in enumerate(frames(length)):
            (files / f"{number:05d}.jpg").write_bytes(jpeg(pixels))
        reduced = small(plan.subject, SMALL_SIDE, Path(folder))
        return [
            _table(plan, reduced, SMALL_SIDE, SMALL_COUNTS, length, files),
            _table(plan, plan.subject, 1024, COUNTS, length, files),
        ]


def _table(plan: Plan, subject: Subject, side: int, counts: tuple[int, ...], length: int, files: Path) -> Table:
    rows: list[Row] = []
    for count in counts:
        ways = _followed(plan, subject, side, count, length, files)
        seconds = {way: [each.seconds for each in steps[1:]] for way, steps in ways.items()}
        computed_s = {way: sum(each.processor_s for each in steps[1:]) for way, steps in ways.items()}
        for way, steps in ways.items():
            speed = ratio(seconds["predictor"], seconds[way])
            rows.append(
                {
                    "way": way,
                    "objects": count,
                    "ms a frame": Sample.of(seconds[way]).median * 1000,
                    "times as fast": speed.median,
                    "low": speed.low,
                    "high": speed.high,
                    "processor ms an object": computed_s[way] * 1000 / count / len(seconds[way]),
                    "by processor time": computed_s["predictor"] / computed_s[way],
                    "ms to the first mask": steps[0].seconds * 1000,
                    "peak MiB": steps[-1].peak_bytes / 2**20,
                }
            )
            print(rows[-1], flush=True)  # What is ended early has told something, too.
    title = f"Objects followed through {SIZE[1]} x {SIZE[0]} frames, {subject.name} at {side} pixels"
    axes = ("objects", "processor time of a frame and object, ms")
    figure = Lines("objects", "processor ms an object", axes, "way", logarithmic=True)
    notes = [f"{length} frames. The loop is the server's own model in a process without a server, with its engine."]
    return Table(title, rows, figure, notes)


def frames(length: int) -> Iterator[Pixels]:
    """(480, 640, 3) uint8 RGB each."""
    whole = photograph(0, (SIZE[0] + 2 * length, SIZE[1] + 4 * length))
    for number in range(length):
        top, left = 2 * number, 4 * number
        yield np.ascontiguousarray(whole[top : top + SIZE[0], left : left + SIZE[1]])


def _followed(plan: Plan, subject: Subject, side: int, count: int, length: int, files: Path) -> dict[str, list[Step]]:
    """A step for each frame, by way."""
    with ExitStack() as stack:
        server = stack.enter_context(
            plan.serving(subject, program=small_server(side), default_deadline_s=FRAME_S, max_deadline_s=FRAME_S)
        )
        ways: dict[str, Callable[[], Step]] = {
            "predictor": stack.enter_context(apart(predicted, subject, files, count)),
            "server": stack.enter_context(_served(server, count, length)),
            "loop": stack.enter_context(apart(_looped, subject, side, length, count)),
        }
        steps: dict[str, list[Step]] = {way: [] for way in ways}
        for _ in range(length):
            for way, step in ways.items():
                steps[way].append(step())
    return steps


def predicted(subject: Subject, files: Path, count: int, size: tuple[int, int] = SIZE) -> Iterator[object]:
    """Loads the predictor; then one frame after the other."""
    predictor = official_video(subject.config or "", subject.checkpoint)
    yield
    state = predictor.init_state(str(files))
    for number, box in enumerate(boxes(count, size)):
        predictor.add_new_points_or_box(state, 0, number, box=box)
    for _, _, logits in predictor.propagate_in_video(state):
        yield [(each[0] > 0).numpy() for each in logits]


def _looped(subject: Subject, side: int, length: int, count: int) -> Iterator[object]:
    """The same by the server's model."""
    from cutout_server.models.queries import MaskQuery, TrackQuery  # noqa: PLC0415 - torch takes seconds
    from cutout_server.types import Box, ObjectPrompt  # noqa: PLC0415
    from harness.loops import raw_model  # noqa: PLC0415

    allow(side)
    model, _ = raw_model(subject)
    memories: list[Any] = [None] * count
    prompts: list[Any] = [ObjectPrompt(box=Box(*box)) for box in boxes(count, SIZE).tolist()]
    yield
    for number, pixels in enumerate(frames(length)):
        (embedding,) = model.encode([pixels])
        asked = zip(memories, prompts, strict=True)
        found = model.track([TrackQuery(embedding, number, memory, prompt, number) for memory, prompt in asked])
        memories, prompts = [each.memory for each in found], [None] * count
        yield [mask.whole() for mask in model.masks([MaskQuery(embedding, each.logits, 0.0) for each in found])]


@contextmanager
def _served(server: Running, count: int, length: int) -> Iterator[Callable[[], Step]]:
    """A live session, which gets a frame when the one before is answered."""
    waiting: queue.Queue[Pixels] = queue.Queue()
    with Client(server.address, timeout_s=FRAME_S) as client:
        pixels = frames(length)
        live = client.live((waiting.get() for _ in range(length)), boxes=boxes(count, SIZE))

        def step() -> Step:
            frame = next(pixels)
            started, computed = time.perf_counter(), server.processor_s()
            waiting.put(frame)
            assert len(next(live)) == count
            seconds, processor_s = time.perf_counter() - started, server.processor_s() - computed
            return Step(seconds, processor_s, server.memory_bytes(), server.peak_bytes())

        with live:
            yield step


if __name__ == "__main__":
    run("following", measure, __doc__)
