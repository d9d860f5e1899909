"""Small videos, made by PyAV."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from cutout.v1 import video_service_pb2 as pb2
from cutout.v1 import video_service_pb2_grpc as pb2_grpc

RATE = 10
PIECE = 16 * 1024


def video(
    frames: Iterable[np.ndarray],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    group: int = 4,
    rotation: int = 0,
    times: Sequence[int] = (),
    **options: str,
) -> bytes:
    """A file.

    Args:
        frames: (H, W, 3) uint8 RGB, of even sizes.
        container: FFmpeg's name of its format.
        codec: FFmpeg's name of the encoder.
        group: Frames from one keyframe to the next.
        rotation: Degrees by which a player turns the frames, counterclockwise.
        times: When each is shown, in milliseconds; regular when it is left out.
        options: Of the container.
    """
    with (
        scheduled_as_before(),
        tempfile.NamedTemporaryFile() as file,
        av.open(file.name, "w", format=container, options=options) as made,
    ):
        stream = made.add_stream(codec, rate=RATE, options={"x265-params": "log-level=none"} if "265" in codec else {})
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = group
        for index, pixels in enumerate(frames):
            if not index:
                stream.height, stream.width = pixels.shape[:2]
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
        made.close()
        return Path(file.name).read_bytes()


@contextmanager
def scheduled_as_before() -> Iterator[None]:
    """Takes back what SVT-AV1 does to the thread that starts it, where root runs it.

    That gets the highest real-time priority, which goes on to all threads and processes that it starts from then on:
    nothing else on the machine has a processor any more while one of them computes.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def upload(channel: object, data: bytes, **fields: str) -> pb2.Video:
    """Stores a file in pieces."""
    pieces = (data[at : at + PIECE] for at in range(0, len(data), PIECE))
    messages = (pb2.UploadVideoRequest(chunk={"data": piece}, **fields) for piece in pieces)
    return pb2_grpc.VideoServiceStub(channel).UploadVideo(messages).video
