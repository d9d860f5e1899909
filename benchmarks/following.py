"""1, 8 and 64 objects followed through a video: live sessions beside `SAM2VideoPredictor`, and the model in a loop.

python benchmarks/following.py [--model NAME] [--quick] [--json FILE]

All have the same frames, a window that moves over a photograph, and the same boxes in the first of them; they take
turns frame by frame, each in a process of its own. The predictor is used as its notebook does: its frames are JPEG
files, all of which it reads before the first mask. The server gets pixels and answers run lengths.
"""

import multiprocessing
import queue
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from cutout_client import Client
from harness.photographs import boxes, jpeg, photograph
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, ratio
from harness.scenario import Plan, run
from harness.servers import Running
from harness.subjects import Subject, official_video
from numpy.typing import NDArray

SIZE = (480, 640)
COUNTS = (1, 8, 64)
Pixels = NDArray[np.uint8]
Step = Callable[[], object]


def measure(plan: Plan) -> list[Table]:
    """A video for each count; what a frame costs is told of those after the first."""
    length = max(3, plan.count(12, 4))
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        for number, pixels in enumerate(frames(length)):
            (files / f"{number:05d}.jpg").write_bytes(jpeg(pixels))
        results = [(count, _followed(plan, count, length, files)) for count in COUNTS[: plan.count(3, 2)]]
    rows: list[Row] = []
    for count, (seconds, peaks) in results:
        for way, values in seconds.items():
            frame, speed = Sample.of(values[1:]), ratio(seconds["predictor"][1:], values[1:])
            rows.append(
                {
                    "way, objects": f"{way}, {count}",
                    "ms a frame": frame.median * 1000,
                    "ms an object": frame.median * 1000 / count,
                    "times as fast": speed.median,
                    "low": speed.low,
                    "high": speed.high,
                    "ms to the first mask": values[0] * 1000,
                    "peak MiB": peaks[way] / 2**20,
                }
            )
    title = f"Objects followed through {SIZE[1]} x {SIZE[0]} frames, {plan.subject.name}"
    notes = [f"{length} frames. The loop is the server's own model in a process without a server, with its engine."]
    return [Table(title, rows, Bars("way, objects", "ms an object", "ms a frame and object"), notes)]


def frames(length: int) -> Iterator[Pixels]:
    """(480, 640, 3) uint8 RGB each."""
    whole = photograph(0, (SIZE[0] + 2 * length, SIZE[1] + 4 * length))
    for number in range(length):
        top, left = 2 * number, 4 * number
        yield np.ascontiguousarray(whole[top : top + SIZE[0], left : left + SIZE[1]])


def _followed(plan: Plan, count: int, length: int, files: Path) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds by way, a value for each frame, and the most memory that each way's process has held, in bytes."""
    with ExitStack() as stack:
        server = stack.enter_context(plan.serving(plan.subject))
        ways: dict[str, Callable[[], tuple[float, int]]] = {
            "predictor": stack.enter_context(_apart(_predicted, plan.subject, files, count)),
            "server": stack.enter_context(_served(server, count, length)),
            "loop": stack.enter_context(_apart(_looped, plan.subject, length, count)),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        peaks: dict[str, int] = {}
        for _ in range(length):
            for way, step in ways.items():
                took, peaks[way] = step()
                seconds[way].append(took)
    return seconds, peaks


def _predicted(subject: Subject, files: Path, count: int) -> Iterator[object]:
    """Loads the predictor; then one frame after the other."""
    predictor = official_video(subject.config or "", subject.checkpoint)
    yield
    state = predictor.init_state(str(files))
    for number, box in enumerate(boxes(count, SIZE)):
        predictor.add_new_points_or_box(state, 0, number, box=box)
    for _, _, logits in predictor.propagate_in_video(state):
        yield [(each[0] > 0).numpy() for each in logits]


def _looped(subject: Subject, length: int, count: int) -> Iterator[object]:
    """The same by the server's model."""
    from cutout_server.models.queries import MaskQuery, TrackQuery  # noqa: PLC0415 - torch takes seconds
    from cutout_server.types import Box, ObjectPrompt  # noqa: PLC0415
    from harness.loops import raw_model  # noqa: PLC0415

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
def _served(server: Running, count: int, length: int) -> Iterator[Callable[[], tuple[float, int]]]:
    """A live session, which gets a frame when the one before is answered."""
    waiting: queue.Queue[Pixels] = queue.Queue()
    with Client(server.address, timeout_s=600) as client:
        pixels = frames(length)
        live = client.live((waiting.get() for _ in range(length)), boxes=boxes(count, SIZE))

        def step() -> tuple[float, int]:
            frame = next(pixels)
            started = time.perf_counter()
            waiting.put(frame)
            assert len(next(live)) == count
            return time.perf_counter() - started, server.peak_bytes()

        with live:
            yield step


@contextmanager
def _apart(work: Callable[..., Iterator[object]], *given: object) -> Iterator[Callable[[], tuple[float, int]]]:
    """Goes through an iterator in a process of its own; each step tells its seconds and the process's peak memory."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, given), daemon=True)
    process.start()
    there.close()

    def step() -> tuple[float, int]:
        here.send(None)
        answer = here.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)  # noqa: TRY004 - it is what the other process reports
        seconds, peak = answer
        return float(seconds), int(peak)

    try:
        here.recv()  # It is loaded.
        yield step
    finally:
        here.close()
        process.kill()
        process.join()


def _serve(pipe: Connection, work: Callable[..., Iterator[object]], given: tuple[object, ...]) -> None:
    warnings.simplefilter("ignore")  # The official packages' own, which say nothing about speed.
    try:
        steps = work(*given)
        next(steps)
        pipe.send(None)
        while True:
            pipe.recv()
            started = time.perf_counter()
            next(steps)
            seconds = time.perf_counter() - started
            pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the process that waits
        pipe.send(f"{work.__name__}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    run("following", measure, __doc__)
