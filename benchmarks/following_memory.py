"""Memory over 2,000 frames of a live session, beside `SAM2VideoPredictor`, and over 10,000 frames of a stored video.

    python benchmarks/following_memory.py [--model NAME] [--quick] [--json FILE]

Both follow 2 objects by the same weights, at 128 pixels a side instead of 1024: a frame then takes a fraction of the
time, and a sixty-fourth of the predictor's memory, which is used as its notebook does. The stored video has frames of
1920 x 1080, all of which are decoded; the built-in model follows an object through every tenth.
"""

import itertools
import os
import queue
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import av
import numpy as np
import psutil
from cutout_client import Client, TrackPrompt
from following import predicted
from harness.apart import apart
from harness.photographs import boxes, jpeg, photograph
from harness.plots import Lines
from harness.report import Row, Table
from harness.scenario import Plan, run
from harness.servers import serving_builtin
from harness.subjects import Subject
from numpy.typing import NDArray

SIDE, SIZE, COUNT = 128, (480, 640), 2
SHIFT = 4  # Pixels from frame to frame; after a while the photograph is back where it was.
HD, EVERY = (1080, 1920), 10
CACHE_BYTES = (
    64 * 2**20
)  # For embeddings, which frames fill as pictures do: full early, so that what grows after is growth.
SMALL_SERVER = Path(__file__).parent / "harness" / "small_sam2_server.py"
Pixels = NDArray[np.uint8]


def measure(plan: Plan) -> list[Table]:
    """Resident memory on the way, of each."""
    live, stored = plan.count(2000, 12), plan.count(10_000, 60)
    with tempfile.TemporaryDirectory() as folder:
        subject = _small(plan.subject, Path(folder))
        rows = [*_points("predictor", live, _predicts(subject, live, Path(folder)))]
        rows += _points("server, live", live, _serves(plan, subject, live))
    title = f"Memory over {live} frames with {COUNT} objects, {subject.name} at {SIDE} pixels"
    figure = Lines("frames", "resident MiB", ("frames", "resident memory, MiB"), "way")
    other = f"Memory over {stored} frames of a stored video, {HD[1]} x {HD[0]}, the built-in model"
    with tempfile.TemporaryDirectory() as folder:
        kept = _points("server and decoder", stored, _follows_stored(stored, Path(folder)))
    return [
        Table(title, _summary(rows)),
        Table(f"{title}: as it went", rows, figure),
        Table(other, _summary(kept)),
        Table(f"{other}: as it went", kept, figure),
    ]


def _points(way: str, length: int, frames: Iterator[tuple[int, int]]) -> list[Row]:
    """Some fifty of (frames, bytes) pairs."""
    rows: list[Row] = []
    for done, resident in frames:
        if not rows or done - rows[-1]["frames"] >= length / 50 or done == length:
            rows.append({"way": way, "frames": done, "resident MiB": resident / 2**20})
            print(f"{way}, frame {done}: {resident / 2**20:.0f} MiB", flush=True)
    return rows


def _summary(rows: list[Row]) -> list[Row]:
    """What each way had after a twentieth of the frames, and at the end; what a frame adds between."""
    table: list[Row] = []
    for way, group in itertools.groupby(rows, key=lambda row: row["way"]):
        points = list(group)
        early = next(each for each in points if each["frames"] >= points[-1]["frames"] / 20)
        grown = points[-1]["resident MiB"] - early["resident MiB"]
        table.append(
            {
                "way": way,
                "MiB at first": points[0]["resident MiB"],
                f"MiB after {early['frames']} frames": early["resident MiB"],
                f"MiB after {points[-1]['frames']} frames": points[-1]["resident MiB"],
                "most MiB": max(each["resident MiB"] for each in points),
                "KiB a frame between": 1024 * grown / max(1, points[-1]["frames"] - early["frames"]),
            }
        )
    return table


def _small(subject: Subject, folder: Path) -> Subject:
    """The same weights for smaller pictures."""
    official = resources.files("sam2") / "configs" / "sam2.1" / f"{subject.config}.yaml"
    config = folder / "small.yaml"
    config.write_text(official.read_text().replace("image_size: 1024", f"image_size: {SIDE}"))
    return Subject(subject.name, subject.family, subject.checkpoint, str(config), subject.runtime)


def _frame(number: int, size: tuple[int, int]) -> Pixels:
    return np.roll(photograph(0, size), SHIFT * number, axis=1)


def _predicts(subject: Subject, length: int, folder: Path) -> Iterator[tuple[int, int]]:
    """Frames done and the process's resident memory."""
    files = folder / "frames"
    files.mkdir()
    period = SIZE[1] // SHIFT
    for number in range(length):
        name = files / f"{number:05d}.jpg"
        if number < period:
            name.write_bytes(jpeg(_frame(number, SIZE)))
        else:
            os.link(files / f"{number % period:05d}.jpg", name)
    with apart(predicted, subject, files, COUNT, SIZE) as step:
        for done in range(1, length + 1):
            yield done, step().resident_bytes


def _serves(plan: Plan, subject: Subject, length: int) -> Iterator[tuple[int, int]]:
    """Frames done and the server's resident memory."""
    waiting: queue.Queue[Pixels] = queue.Queue()
    with (
        plan.serving(subject, program=(str(SMALL_SERVER), str(SIDE)), embeddings_cache_bytes=CACHE_BYTES) as server,
        Client(server.address, timeout_s=600) as client,
        client.live((waiting.get() for _ in range(length)), boxes=boxes(COUNT, SIZE)) as live,
    ):
        for done in range(1, length + 1):
            waiting.put(_frame(done, SIZE))
            assert len(next(live)) == COUNT
            yield done, server.memory_bytes()


def _follows_stored(length: int, folder: Path) -> Iterator[tuple[int, int]]:
    """Frames decoded and the resident memory of the server with its decoding processes, which share pages with it."""
    path = folder / "video.mp4"
    with av.open(path, "w") as made:
        stream = made.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "35"})
        stream.height, stream.width = HD
        for number in range(length):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(_frame(number, HD))))
        made.mux(stream.encode())
    with (
        serving_builtin(embeddings_cache_bytes=CACHE_BYTES) as server,
        Client(server.address, timeout_s=600) as client,
    ):
        memory = _resident(server.pid)
        video = client.upload_video(path)
        with client.track_video(video, prompts={0: {1: TrackPrompt(box=boxes(1, HD)[0])}}, every=EVERY) as followed:
            for frame in followed:
                yield frame.index + 1, memory()


def _resident(pid: int) -> Callable[[], int]:
    """The proportional set size of a process and its children, so that what they share is counted once."""
    process = psutil.Process(pid)
    return lambda: sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))


if __name__ == "__main__":
    run("following_memory", measure, __doc__)
