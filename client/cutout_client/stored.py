"""Videos that the server stored, and what is followed through them there."""

import hashlib
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Integral
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import grpc
from cutout.v1 import tracking_service_pb2, video_service_pb2
from cutout_common import routing
from cutout_common.status import ErrorDetails

from cutout_client.errors import InternalError
from cutout_client.frame_range import check_range
from cutout_client.images import CHUNK_BYTES, RemotePicture, VideoFrame
from cutout_client.keywords import choose
from cutout_client.messages import build, of_type, words
from cutout_client.rpcs import Streamed, Unary
from cutout_client.streams import AsyncMessageStream, MessageStream
from cutout_client.tracked import TrackedFrame, TrackOptions, TrackPrompt, prompt_messages, read_frame, tracking_options
from cutout_client.transport import Call

Request = tracking_service_pb2.TrackVideoRequest
Direction = Literal["forward", "backward", "both"]
VideoLike = str | PathLike[str] | bytes
DIRECTIONS = {
    "forward": Request.DIRECTION_FORWARD,
    "backward": Request.DIRECTION_BACKWARD,
    "both": Request.DIRECTION_BOTH,
}


@dataclass(frozen=True)
class StoredVideo:
    """A video that the server stored.

    Attributes:
        video_id: Names it in requests, from anywhere that uses the same API key.
        sha256: Hexadecimal digest of the file.
        size_bytes: Size of the file.
        content_type: "video/mp4" and the like.
        codec: "h264", "hevc", "vp8", "vp9", "av1", "mpeg4" or "mjpeg".
        width: Columns of the upright frames, in pixels.
        height: Rows.
        frame_count: How many frames there are.
        missing_frames: How many more the header promises: the file was cut off.
        duration_s: From the first frame to the end of the last one.
        frame_rate: Frames a second, on average.
        expire_time: When it is forgotten unless it is used before.
    """

    video_id: str
    sha256: str
    size_bytes: int
    content_type: str
    codec: str
    width: int
    height: int
    frame_count: int
    missing_frames: int
    duration_s: float
    frame_rate: float
    expire_time: datetime

    def frame(self, number: int) -> VideoFrame:
        """A frame as the picture of any request, from 0."""
        return VideoFrame(self.video_id, number)


def read_video(message: video_service_pb2.Video) -> StoredVideo:
    """Reads what is stored."""
    same = ("video_id", "sha256", "size_bytes", "content_type", "codec", "width", "height", "frame_count")
    return StoredVideo(
        **{name: getattr(message, name) for name in (*same, "missing_frames", "frame_rate")},
        duration_s=message.duration_seconds,
        expire_time=message.expire_time.ToDatetime(UTC),
    )


def video_id_of(video: StoredVideo | str) -> str:
    """The id of a stored video.

    Raises:
        TypeError: It is none.
    """
    of_type("video", video, (StoredVideo, str), "a stored video, or its id")
    return video.video_id if isinstance(video, StoredVideo) else video


@dataclass(frozen=True)
class VideoUpload:
    """A file to be stored: read in pieces, anew for each try.

    Attributes:
        digest: Hexadecimal SHA-256 of it.
    """

    digest: str
    _source: Path | bytes = field(repr=False)

    @classmethod
    def of(cls, video: VideoLike) -> "VideoUpload":
        """Looks through the file once.

        Raises:
            FileNotFoundError: The path names no file.
            TypeError: It is neither a path nor bytes.
        """
        if isinstance(video, bytes):
            return cls(hashlib.sha256(video).hexdigest(), video)
        of_type("video", video, (str, PathLike), "the path of a file, or its bytes")
        path = Path(fspath(video))
        if not path.is_file():
            raise FileNotFoundError(f"there is no video {path}")
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), path)

    def requests(self) -> Iterator[video_service_pb2.UploadVideoRequest]:
        """The pieces, the first of them with the digest of the whole."""
        digest = self.digest
        for piece in self._pieces():
            request = video_service_pb2.UploadVideoRequest(expected_sha256=digest)
            request.chunk.data = piece
            yield request
            digest = ""

    def _pieces(self) -> Iterator[bytes]:
        if isinstance(self._source, bytes):
            for start in range(0, len(self._source) or 1, CHUNK_BYTES):
                yield self._source[start : start + CHUNK_BYTES]
            return
        with self._source.open("rb") as file:
            yield file.read(CHUNK_BYTES)
            while piece := file.read(CHUNK_BYTES):
                yield piece


class VideoTrackOptions(TrackOptions, total=False):
    """`TrackOptions`, and what to follow through a stored video, and how.

    Attributes:
        prompts: By frame and object: what is known of objects. An id that is new begins one.
        phrases: By frame: what to look for there. What is found begins as objects; the answer's `names` say which, and
            `found` of its frames what else there was.
        direction: "forward" from the first frame with prompts, "backward" from the last one, or "both". Default:
            "forward".
        start: The first frame, from 0. Default: 0.
        end: The one behind the last. Default: all.
        every: Each how many-th frame; those with prompts come in any case. Default: 1.
        tracker: Name of the model. Default: the server's.
        detector: Name of the model that finds. Default: the server's.
        segmenter: Name of the model that cuts out what phrases find. Default: the server's.
        phrases_every: Look for phrases again so many frames on, and again; what is new joins. Default: 0, once.
    """

    prompts: Mapping[int, Mapping[int, TrackPrompt]] | None
    phrases: Mapping[int, str | Sequence[str]] | None
    direction: Direction
    start: int
    end: int | None
    every: int
    tracker: str
    detector: str
    segmenter: str
    phrases_every: int


def _track_request(video: StoredVideo | str, how: VideoTrackOptions) -> Request:
    start, end, every = how.get("start", 0), how.get("end"), how.get("every", 1)
    check_range(start, end, every)
    direction = how.get("direction", "forward")
    choose("direction", direction, DIRECTIONS)
    said, looked_for = _by_frame("prompts", how.get("prompts")), _by_frame("phrases", how.get("phrases"))
    return build(
        Request,
        {"start_frame": "start", "end_frame": "end"},
        video_id=video_id_of(video),
        options=tracking_options(how),
        prompts=[
            build(
                tracking_service_pb2.VideoPrompt,
                {"frame": "a frame of prompts or phrases"},
                frame=number,
                prompts=prompt_messages(said.get(number, {})),
                phrases=words("phrases", looked_for.get(number, ())),
            )
            for number in sorted({*said, *looked_for})
        ],
        direction=DIRECTIONS[direction],
        start_frame=start,
        end_frame=end or 0,
        every=every,
        **{name: how.get(name) for name in ("tracker", "detector", "segmenter", "phrases_every")},
    )


def _by_frame(name: str, given: Mapping[int, Any] | None) -> Mapping[int, Any]:
    by_frame = {} if given is None else given
    of_type(name, by_frame, Mapping, "a dict by frame")
    for frame in by_frame:
        of_type(f"a frame of {name}", frame, Integral, "a whole number")
    return by_frame


class Following:
    """Puts the answer of TrackVideo together; knows nothing of how its messages arrive.

    Attributes:
        tracker: See `VideoTrackStream`; so are the others.
    """

    def __init__(self, request: Request, request_id: str) -> None:
        self.tracker = ""
        self.names: dict[int, str] = {}
        self.frames_done = self.frames_total = 0
        self.unreadable_frames: tuple[int, ...] = ()
        self._video_id = request.video_id
        self._request_id = request_id
        self._size: tuple[int, int] | None = None
        self._found: tracking_service_pb2.FoundObjects | None = None
        self._is_whole = False

    def add(self, message: tracking_service_pb2.TrackVideoResponse) -> TrackedFrame | None:
        """Takes the next message; gives its frame, if it has one."""
        self.frames_done, self.frames_total = message.frames_done, message.frames_total
        match message.WhichOneof("message"):
            case "started":
                self.tracker = message.started.tracker
                self._size = (message.started.video.height, message.started.video.width)
            case "found":
                self._found = message.found
                self.names |= {each.object_id: each.label for each in message.found.objects}
            case "frame":
                picture = RemotePicture(video_id=self._video_id, frame=message.frame.frame_index)
                if self._found is not None:  # It comes before the frame.
                    message.frame.found.CopyFrom(self._found)
                    self._found = None
                return read_frame(message.frame, picture, self._request_id, self._size)
            case "summary":
                self.unreadable_frames = tuple(message.summary.unreadable_frames)
                self._is_whole = True
        return None

    def result(self, frames: Sequence[TrackedFrame]) -> tuple[TrackedFrame, ...]:
        """The frames that the caller still wants.

        Raises:
            InternalError: The answer ended too early.
        """
        if not self._is_whole:
            details = ErrorDetails(request_id=self._request_id)
            raise InternalError(
                grpc.StatusCode.DATA_LOSS, "the stream ended before the whole answer was there", details
            )
        return tuple(frames)


def upload(file: VideoUpload) -> Unary[StoredVideo]:
    """Stores a video."""
    return Unary(
        lambda stubs: stubs.videos.UploadVideo,
        file.requests,
        lambda answer, _: read_video(answer.video),
        place=routing.by_digest(file.digest),
    )


def follow(video: StoredVideo | str, how: VideoTrackOptions) -> Streamed[tuple[TrackedFrame, ...], Following]:
    """Follows objects through a stored video.

    Raises:
        TypeError: A value is of a type that its field does not take.
        ValueError: A value cannot be sent.
    """
    request = _track_request(video, how)
    return Streamed(
        lambda stubs: stubs.tracking.TrackVideo,
        lambda: request,
        lambda request_id: Following(request, request_id),
        place=routing.by_id(request.video_id),
        is_endless=True,
    )


class _Told:
    """What both twins tell of the answer so far."""

    _following: Following

    @property
    def tracker(self) -> str:
        """The model that follows; empty before the first frame."""
        return self._following.tracker

    @property
    def names(self) -> Mapping[int, str]:
        """The phrase by which each object was found that words began, so far."""
        return self._following.names

    @property
    def frames_done(self) -> int:
        """How many of `frames_total` are behind us."""
        return self._following.frames_done

    @property
    def frames_total(self) -> int:
        """How many frames are worked on, in both directions together."""
        return self._following.frames_total

    @property
    def unreadable_frames(self) -> tuple[int, ...]:
        """Those that could not be decoded, the first thousand of them; empty before the end."""
        return self._following.unreadable_frames


class VideoTrackStream(_Told, MessageStream[TrackedFrame]):
    """The frames of a stored video with their objects, each as soon as it is there.

    Leaving early cancels what is still to come: use it in a `with` block, or call `close`.
    """

    def __init__(self, messages: Generator[Any, None, None], following: Following, call: Call) -> None:
        super().__init__(messages, following, call)
        self._following = following


class AsyncVideoTrackStream(_Told, AsyncMessageStream[TrackedFrame]):
    """As `VideoTrackStream`, for asyncio."""

    def __init__(self, messages: AsyncGenerator[Any, None], following: Following, call: Call) -> None:
        super().__init__(messages, following, call)
        self._following = following
