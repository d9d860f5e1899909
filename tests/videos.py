"""Small videos, made by PyAV; how they are stored and followed through by gRPC."""

import io
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import grpc
import numpy as np
from cutout.v1 import tracking_service_pb2 as tracking_pb2
from cutout.v1 import tracking_service_pb2_grpc
from cutout.v1 import video_service_pb2 as pb2
from cutout.v1 import video_service_pb2_grpc as pb2_grpc
from cutout_common.status import unpack
from google.rpc.status_pb2 import Status
from waiting import PATIENCE_S

RATE = 10
PIECE = 16 * 1024
FORWARD, BACKWARD, BOTH = 1, 2, 3


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


def without_beginning(data: bytes, packets: int) -> bytes:
    """A Matroska file without its first packets, so that it begins in the middle of a group."""
    with tempfile.NamedTemporaryFile() as file, av.open(io.BytesIO(data)) as whole:
        with av.open(file.name, "w", format="matroska") as made:
            stream = made.add_stream_from_template(whole.streams.video[0])
            for packet in itertools.islice((each for each in whole.demux(video=0) if each.size), packets, None):
                packet.stream = stream
                made.mux(packet)
        return Path(file.name).read_bytes()


def repeated(data: bytes, times: int) -> bytes:
    """An MP4 file that shows another one's frames so many times; none is coded again."""
    with tempfile.NamedTemporaryFile() as file, av.open(io.BytesIO(data)) as whole:
        source = whole.streams.video[0]
        length = source.frames * int(1 / (source.average_rate * source.time_base))
        packets = [each for each in whole.demux(video=0) if each.size]
        with av.open(file.name, "w", format="mp4") as made:
            stream = made.add_stream_from_template(source)
            for packet in itertools.chain.from_iterable(itertools.repeat(packets, times)):
                packet.stream = stream
                made.mux(packet)
                packet.pts, packet.dts, packet.time_base = packet.pts + length, packet.dts + length, source.time_base
        return Path(file.name).read_bytes()


def upload(channel: object, data: bytes, **fields: str) -> pb2.Video:
    """Stores a file in pieces."""
    pieces = (data[at : at + PIECE] for at in range(0, len(data), PIECE))
    messages = (pb2.UploadVideoRequest(chunk={"data": piece}, **fields) for piece in pieces)
    return pb2_grpc.VideoServiceStub(channel).UploadVideo(messages).video


def asked(video_id: str, *prompts: dict[str, object], **fields: object) -> tracking_pb2.TrackVideoRequest:
    return tracking_pb2.TrackVideoRequest(video_id=video_id, prompts=prompts, **fields)


def tracked(channel: grpc.Channel, request: tracking_pb2.TrackVideoRequest) -> list[tracking_pb2.TrackVideoResponse]:
    """The whole answer, which begins, counts and ends as it should."""
    stub = tracking_service_pb2_grpc.TrackingServiceStub(channel)
    messages = list(stub.TrackVideo(request, timeout=PATIENCE_S))
    kinds = [message.WhichOneof("message") for message in messages]
    assert (kinds[0], kinds[-1]) == ("started", "summary")
    assert messages[0].started.tracker == "builtin"
    done = [message.frames_done for message in messages]
    assert done == sorted(done)
    assert done[-1] == messages[0].frames_total == messages[-1].frames_total
    return messages


def frames(messages: list[tracking_pb2.TrackVideoResponse]) -> list[tracking_pb2.TrackedFrame]:
    return [message.frame for message in messages if message.HasField("frame")]


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, list[str]]:
    """Code, reason and the fields of the violations."""
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    details = unpack(status)
    return error.code(), details.reason, [violation.field for violation in details.violations]


def is_stored(channel: grpc.Channel, video_id: str) -> bool:
    """Whether whoever asks finds it."""
    try:
        pb2_grpc.VideoServiceStub(channel).GetVideo(pb2.GetVideoRequest(video_id=video_id))
    except grpc.RpcError as error:
        return refusal(error)[1] != "VIDEO_NOT_FOUND"
    return True
