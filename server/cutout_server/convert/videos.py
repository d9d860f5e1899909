"""Messages about stored videos to domain types, and back."""

import datetime
from dataclasses import dataclass

from cutout.v1 import tracking_service_pb2 as pb2
from cutout.v1 import video_service_pb2

from cutout_server.call_context import Stages
from cutout_server.convert.checks import Checker
from cutout_server.convert.responses import timings
from cutout_server.convert.tracking import TrackingReader, read_options
from cutout_server.errors import InvalidRequestError
from cutout_server.images.store import StoredVideo
from cutout_server.types import Direction, DropPolicy, TrackingRequest, VideoPrompt, VideoTrackRequest

MAX_PROMPTED_FRAMES = 256
MAX_VIDEO_POINTS = 65_536  # Of all prompts together.
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


@dataclass(frozen=True)
class VideoTrackReader:
    """Reads requests of TrackVideo within the operator's bounds."""

    tracking: TrackingReader

    def read(self, message: pb2.TrackVideoRequest) -> VideoTrackRequest:
        """A request; whether its frames are in the video shows later.

        Raises:
            InvalidRequestError: With all violated fields.
        """
        check = Checker()
        check.require(bool(message.video_id), "video_id", "expected the id of a stored video, got none")
        check.count("prompts", len(message.prompts), MAX_PROMPTED_FRAMES)
        self._check_points(message)
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

    def _check_points(self, message: pb2.TrackVideoRequest) -> None:
        """Refuses more points than are read in a moment, before any is."""
        points = sum(
            len(prompt.points)
            for said in message.prompts[:MAX_PROMPTED_FRAMES]
            for prompt in said.prompts[: self.tracking.max_objects]
        )
        if points > MAX_VIDEO_POINTS:
            what = f"expected at most {MAX_VIDEO_POINTS} points in all, got {points}"
            raise InvalidRequestError.of("prompts", what)

    def _prompts(self, check: Checker, message: pb2.TrackVideoRequest) -> tuple[VideoPrompt, ...]:
        prompts: list[VideoPrompt] = []
        seen: set[int] = set()
        objects: set[int] = set()
        box_threshold = check.optional(message, "box_threshold", 0.0, 1.0)
        by_words = any(said.phrases for said in message.prompts[:MAX_PROMPTED_FRAMES])
        for field in ("detector", "segmenter", "phrases_every"):
            check.require(by_words or not getattr(message, field), field, "expected none without phrases")
        check.require(by_words or box_threshold is None, "box_threshold", "expected none without phrases")
        for index, said in enumerate(message.prompts[:MAX_PROMPTED_FRAMES]):
            path = f"prompts[{index}]"
            check.require(said.frame not in seen, f"{path}.frame", f"expected each frame once, got {said.frame} twice")
            seen.add(said.frame)
            check.require(bool(said.prompts or said.phrases), path, "expected prompts or phrases, got none")
            read = self.tracking.prompts(check, said.prompts, f"{path}.")
            objects |= read.keys()
            phrases = None
            if said.phrases:
                with check.including(path):
                    phrases = self.tracking.phrases(message, said.phrases, box_threshold)
            prompts.append(VideoPrompt(said.frame, read, phrases))
        most = self.tracking.max_objects
        check.require(len(objects) <= most, "prompts", f"expected at most {most} objects in all, got {len(objects)}")
        return tuple(prompts)


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
