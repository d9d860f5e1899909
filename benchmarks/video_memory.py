"""Memory over 10,000 frames of a stored video of 1920 x 1080, as the built-in model follows an object through it.

    python benchmarks/video_memory.py [--quick] [--json FILE]

All frames are decoded, and every tenth is worked on. What is told is the proportional set size of the server with the
processes that decode, so that what they share is counted once. The file shows 480 frames again and again, as their
packets are written again: to code 10,000 would take longer than to follow them.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import psutil
from cutout_client import Client, TrackPrompt
from harness.curves import points, summary
from harness.photographs import boxes, photograph
from harness.plots import Lines
from harness.report import Table
from harness.scenario import Plan, run
from harness.servers import serving_builtin

SIZE, EVERY = (1080, 1920), 10
SHIFT = 4  # Pixels from frame to frame; after a while the photograph is back where it was.
CACHE_BYTES = 64 * 2**20  # For embeddings: full early, so that what grows after is growth.
FRAME_S = 600  # For a frame, on a machine that does other work, too.


def measure(plan: Plan) -> list[Table]:
    """Resident memory on the way."""
    length = plan.count(10_000, 60)
    with tempfile.TemporaryDirectory() as folder:
        kept = points("server and decoder", length, _followed(length, Path(folder)))
    title = f"Memory over {length} frames of a stored video, {SIZE[1]} x {SIZE[0]}, the built-in model"
    figure = Lines("frames", "resident MiB", ("frames", "resident memory, MiB"), "way")
    return [Table(title, summary(kept)), Table(f"{title}: as it went", kept, figure)]


def _followed(length: int, folder: Path) -> Iterator[tuple[int, int]]:
    """Frames that are behind and the bytes of memory then."""
    path = folder / "video.mp4"
    _write(path, length)
    with (
        serving_builtin(embeddings_cache_bytes=CACHE_BYTES, default_deadline_s=FRAME_S) as server,
        Client(server.address, timeout_s=FRAME_S) as client,
    ):
        memory = _resident(server.pid)
        video = client.upload_video(path)
        prompts = {0: {1: TrackPrompt(box=boxes(1, SIZE)[0])}}
        with client.track_video(video, prompts=prompts, end=length, every=EVERY) as followed:
            for frame in followed:
                yield frame.index + 1, memory()


def _write(path: Path, length: int) -> None:
    """At least so many frames."""
    whole, period = photograph(0, SIZE), min(length, SIZE[1] // SHIFT)
    with av.open(path, "w") as made:
        stream = made.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "35", "bf": "0"})
        stream.height, stream.width = SIZE
        packets = []
        for number in range(period):
            packets += stream.encode(av.VideoFrame.from_ndarray(np.roll(whole, SHIFT * number, axis=1)))
        packets += stream.encode()
        base = packets[0].time_base
        span = int(period / (25 * base))
        for again in range(-(-length // period)):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts = packet.pts + again * span, packet.dts + again * span
                copy.time_base, copy.stream, copy.is_keyframe = base, stream, packet.is_keyframe
                made.mux(copy)


def _resident(pid: int) -> Callable[[], int]:
    """The proportional set size of a process and its children."""
    process = psutil.Process(pid)
    return lambda: sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))


if __name__ == "__main__":
    run("video_memory", measure, __doc__)
