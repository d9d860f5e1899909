"""Memory over 2,000 frames of a live session, beside `SAM2VideoPredictor`; `video_memory.py` has that of stored videos.

    python benchmarks/following_memory.py [--model NAME] [--quick] [--json FILE]

Both follow 2 objects by the same weights, at 128 pixels a side instead of 1024: a frame then takes a fraction of the
time, and a sixty-fourth of the predictor's memory, which is used as its notebook does.
"""

import os
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cutout_client import Client
from following import predicted
from harness.apart import apart
from harness.curves import points, summary
from harness.photographs import boxes, jpeg, photograph
from harness.plots import Lines
from harness.report import Table
from harness.scenario import Plan, run
from harness.small_sam2 import small, small_server
from harness.subjects import Subject
from numpy.typing import NDArray

SIDE, SIZE, COUNT = 128, (480, 640), 2
SHIFT = 4  # Pixels from frame to frame; after a while the photograph is back where it was.
CACHE_BYTES = 64 * 2**20  # For embeddings: full early, so that what grows after is growth.
FRAME_S = 600  # For a frame, on a machine that does other work, too.
Pixels = NDArray[np.uint8]


def measure(plan: Plan) -> list[Table]:
    """Resident memory on the way, of each."""
    length = plan.count(2000, 12)
    with tempfile.TemporaryDirectory() as folder:
        subject = small(plan.subject, SIDE, Path(folder))
        rows = points("predictor", length, _predicts(subject, length, Path(folder)))
        rows += points("server", length, _serves(plan, subject, length))
    title = f"Memory over {length} frames with {COUNT} objects, {subject.name} at {SIDE} pixels"
    figure = Lines("frames", "resident MiB", ("frames", "resident memory, MiB"), "way")
    return [Table(title, summary(rows)), Table(f"{title}: as it went", rows, figure)]


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
        plan.serving(
            subject,
            program=small_server(SIDE),
            embeddings_cache_bytes=CACHE_BYTES,
            default_deadline_s=FRAME_S,
        ) as server,
        Client(server.address, timeout_s=FRAME_S) as client,
        client.live((waiting.get() for _ in range(length)), boxes=boxes(COUNT, SIZE)) as live,
    ):
        for done in range(1, length + 1):
            waiting.put(_frame(done, SIZE))
            assert len(next(live)) == COUNT
            yield done, server.memory_bytes()


if __name__ == "__main__":
    run("following_memory", measure, __doc__)
