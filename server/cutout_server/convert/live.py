"""Messages of TrackObjects to domain types."""

from dataclasses import dataclass

from cutout.v1 import tracking_service_pb2 as pb2

from cutout_server.convert.checks import Checker
from cutout_server.convert.inputs import read_image
from cutout_server.convert.tracking import TrackingReader, read_options
from cutout_server.errors import InvalidRequestError
from cutout_server.types import CorrectionRequest, DropPolicy, FrameRequest, LiveRequest, TrackingRequest

MAX_HELD_FRAMES = 16
DEFAULT_HELD_FRAMES = 4
MAX_FOUND_ID = 2**31  # Half of all ids are left for what is found.
DROP_POLICIES = {
    pb2.TrackingOpen.DROP_POLICY_UNSPECIFIED: DropPolicy.WAIT,
    pb2.TrackingOpen.DROP_POLICY_WAIT: DropPolicy.WAIT,
    pb2.TrackingOpen.DROP_POLICY_NEWEST: DropPolicy.NEWEST,
}


@dataclass(frozen=True)
class LiveReader:
    """Reads the messages of a live session, of which the first one holds for the others, too.

    Every method raises InvalidRequestError with all violated fields.
    """

    tracking: TrackingReader
    open: pb2.TrackingOpen

    def opening(self) -> LiveRequest:
        """The beginning."""
        check, message = Checker(), self.open
        held, first = message.held_frames or DEFAULT_HELD_FRAMES, message.first_found_id or 1
        check.require(held <= MAX_HELD_FRAMES, "held_frames", f"expected 1 to {MAX_HELD_FRAMES}, got {held}")
        check.require(first <= MAX_FOUND_ID, "first_found_id", f"expected at most {MAX_FOUND_ID}, got {first}")
        check.optional(message, "box_threshold", 0.0, 1.0)
        tracking = TrackingRequest(
            tracker=message.tracker,
            options=read_options(check, message.options),
            non_overlapping=message.options.non_overlapping,
            drop_policy=check.choice(message.drop_policy, DROP_POLICIES, "drop_policy"),
            held_frames=held,
        )
        check.done()
        return LiveRequest(tracking, message.phrases_every, first)

    def frame(self, message: pb2.Frame) -> FrameRequest:
        """A frame; whether its prompts lie in it shows later."""
        check, phrases = Checker(), None
        if message.phrases:
            box_threshold = self.open.box_threshold if self.open.HasField("box_threshold") else None
            with check.including():
                phrases = self.tracking.phrases(self.open, message.phrases, box_threshold)
        request = FrameRequest(
            index=message.frame_index,
            image=read_image(check, message.image),
            timestamp_s=message.timestamp_seconds if message.HasField("timestamp_seconds") else None,
            prompts=self.tracking.prompts(check, message.prompts),
            phrases=phrases,
            phrases_optional=message.phrases_optional,
        )
        check.done()
        return request

    def correction(self, message: pb2.Correction) -> CorrectionRequest:
        """Prompts on a frame that is held."""
        check = Checker()
        check.require(bool(message.prompts), "prompts", "expected at least 1, got 0")
        request = CorrectionRequest(message.frame_index, self.tracking.prompts(check, message.prompts))
        check.done()
        return request

    def removal(self, message: pb2.Removal) -> list[int]:
        """Objects to be followed no more; whether they are shows later."""
        check = Checker()
        check.count("object_ids", len(message.object_ids), self.tracking.max_objects)
        check.done()
        return list(message.object_ids)


def one_of(message: pb2.TrackObjectsRequest) -> str:
    """Which message it is, after `open`.

    Raises:
        InvalidRequestError: None that may come then.
    """
    kind: str | None = message.WhichOneof("message")
    if kind is None or kind not in {"frame", "correct", "remove"}:
        raise InvalidRequestError.of(kind or "message", f"expected one of frame, correct, remove, got {kind or 'none'}")
    return kind
