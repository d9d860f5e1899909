"""Messages about stored videos to domain types, and back."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutout.v1 import image_pb2, video_service_pb2
from cutout.v1 import segmentation_service_pb2 as service_pb2
from cutout.v1 import tracking_service_pb2 as pb2

from cutout_server.call_context import Stages
from cutout_server.convert.checks import Checker, within
from cutout_server.convert.requests import RequestReader
from cutout_server.convert.responses import timings
from cutout_server.convert.tracking import TrackingReader, read_options
from cutout_server.images.store import StoredVideo
from cutout_server.types import (
    CorrectionRequest,
    Direction,
    DropPolicy,
    FrameRequest,
    LiveRequest,
    TextRequest,
    TrackingRequest,
    VideoPrompt,
    VideoTrackRequest,
)

MAX_PROMPTED_FRAMES = 256
MAX_LISTED = 1000  # Of frames that cannot be decoded.
DIRECTIONS = {
    pb2.TrackVideoRequest.DIRECTION_UNSPECIFIED: Direction.FORWARD,
    pb2.TrackVideoRequest.DIRECTION_FORWARD: Direction.FORWARD,
    pb2.TrackVideoRequest.DIRECTION_BACKWARD: Direction.BACKWARD,
    pb2.TrackVideoRequest.DIRECTION_BOTH: Direction.BOTH,
}
WAYS = {
    Direction.FORWARD: pb2.TrackVideoRequest.DIRECTION_FORWARD,
    Direction.BACKWARD: pb2.TrackVideoRequest.DIRECTION_BACKWARD,
}


MAX_FOUND_ID = 2**31  # Ids are given from there on, and never come to an end.


@dataclass(frozen=True)
class VideoTrackReader:
    """Reads requests of TrackVideo within the operator's bounds."""

    requests: RequestReader
    tracking: TrackingReader

    def read(self, message: pb2.TrackVideoRequest) -> VideoTrackRequest:
        """A request; whether its frames are in the video shows later.

        Raises:
            InvalidRequestError: With all violated fields.
        """
        check = Checker()
        check.require(bool(message.video_id), "video_id", "expected the id of a stored video, got none")
        check.count("prompts", len(message.prompts), MAX_PROMPTED_FRAMES)
        end = message.end_frame or None
        if end is not None:
            expected = f"expected more than start_frame {message.start_frame}, got {end}"
            check.require(end > message.start_frame, "end_frame", expected)
        prompts = self._prompts(check, message)
        request = VideoTrackRequest(
            video_id=message.video_id,
            tracking=TrackingRequest(
                tracker=message.tracker,
                options=read_options(check, message.options),
                non_overlapping=message.options.non_overlapping,
                drop_policy=DropPolicy.WAIT,
                held_frames=1,
            ),
            prompts=prompts,
            direction=check.choice(message.direction, DIRECTIONS, "direction"),
            start_frame=message.start_frame,
            end_frame=end,
            every=message.every or 1,
            phrases_every=message.phrases_every,
        )
        check.done()
        return request

    def _prompts(self, check: Checker, message: pb2.TrackVideoRequest) -> tuple[VideoPrompt, ...]:
        prompts: list[VideoPrompt] = []
        seen: set[int] = set()
        objects: set[int] = set()
        for index, said in enumerate(message.prompts[:MAX_PROMPTED_FRAMES]):
            path = f"prompts[{index}]"
            check.require(said.frame not in seen, f"{path}.frame", f"expected each frame once, got {said.frame} twice")
            seen.add(said.frame)
            check.require(bool(said.prompts or said.phrases), path, "expected prompts or phrases, got none")
            read = self.tracking.prompts(check, said.prompts, f"{path}.")
            objects |= read.keys()
            with within(path):
                phrases = _phrases(self.requests, message, said.phrases) if said.phrases else None
            prompts.append(VideoPrompt(said.frame, read, phrases))
        most = self.tracking.max_objects
        check.require(len(objects) <= most, "prompts", f"expected at most {most} objects in all, got {len(objects)}")
        by_words = any(prompt.phrases for prompt in prompts)
        for field in ("detector", "segmenter", "phrases_every"):
            check.require(by_words or not getattr(message, field), field, "expected none without phrases")
        return tuple(prompts)


def _phrases(
    reader: RequestReader, message: pb2.TrackVideoRequest | pb2.TrackingOpen, phrases: Sequence[str]
) -> TextRequest:
    """The phrases as a request; its picture is the frame, which takes the place of the one here."""
    text = service_pb2.SegmentByTextRequest(
        image=image_pb2.Image(image_id="to be decoded"),
        phrases=phrases,
        detector=message.detector,
        segmenter=message.segmenter,
    )
    if message.HasField("box_threshold"):
        text.box_threshold = message.box_threshold
    return reader.text(text)


@dataclass(frozen=True)
class LiveReader:
    """Reads the messages of a live session, of which the first one holds for the others, too.

    Every method raises InvalidRequestError with all violated fields.
    """

    reader: VideoTrackReader
    open: pb2.TrackingOpen

    def opening(self) -> LiveRequest:
        """The beginning."""
        tracking = self.reader.tracking.opening(self.open)
        check = Checker()
        first = self.open.first_found_id or 1
        check.require(first <= MAX_FOUND_ID, "first_found_id", f"expected at most {MAX_FOUND_ID}, got {first}")
        if self.open.HasField("box_threshold"):
            check.optional(self.open, "box_threshold", 0.0, 1.0)
        check.done()
        return LiveRequest(tracking, self.open.phrases_every, first)

    def frame(self, message: pb2.Frame) -> FrameRequest:
        """A frame; whether its prompts lie in it shows later."""
        frame = self.reader.tracking.frame(message)
        if not message.phrases:
            return frame
        phrases = _phrases(self.reader.requests, self.open, message.phrases)
        return replace(frame, phrases=phrases, phrases_optional=message.phrases_optional)

    def correction(self, message: pb2.Correction) -> CorrectionRequest:
        """Prompts on a frame that is held."""
        return self.reader.tracking.correction(message)


def video(stored: StoredVideo) -> video_service_pb2.Video:
    """A stored video."""
    header = stored.header
    message = video_service_pb2.Video(
        video_id=stored.file_id,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        content_type=header.content_type,
        codec=header.codec,
        width=header.width,
        height=header.height,
        rotation_degrees=header.rotation_degrees,
        frame_count=header.frames,
        missing_frames=header.missing_frames,
        duration_seconds=header.duration_s,
        frame_rate=header.rate,
    )
    message.expire_time.FromDatetime(datetime.datetime.fromtimestamp(stored.expires_at_s(), datetime.UTC))
    return message


def summary(worked: int, unreadable: set[int], stages: Stages) -> pb2.TrackVideoSummary:
    """The end of an answer."""
    return pb2.TrackVideoSummary(
        frames=worked,
        unreadable_frames=sorted(unreadable)[:MAX_LISTED],
        unreadable_count=len(unreadable),
        timings=timings(stages),
    )
