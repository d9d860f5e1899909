"""Messages of TrackObjects to domain types, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

from cutout.v1 import mask_pb2, tracking_service_pb2
from cutout.v1 import segmentation_service_pb2 as service_pb2

from cutout_server.call_context import Stages
from cutout_server.convert.checks import Checker
from cutout_server.convert.images import read_image
from cutout_server.convert.options import MASK_FORMATS, MAX_LOGIT
from cutout_server.convert.prompts import read_prompt
from cutout_server.convert.responses import timings, write_box, write_mask
from cutout_server.errors import InvalidRequestError, to_status
from cutout_server.types import (
    CorrectionRequest,
    DropPolicy,
    FoundObjects,
    FramePrompt,
    FrameRequest,
    MaskFormat,
    Options,
    Rle,
    TrackedFrame,
    TrackedObject,
    TrackingRequest,
)

MAX_HELD_FRAMES = 16
DEFAULT_HELD_FRAMES = 4
DROP_POLICIES = {
    tracking_service_pb2.TrackingOpen.DROP_POLICY_UNSPECIFIED: DropPolicy.WAIT,
    tracking_service_pb2.TrackingOpen.DROP_POLICY_WAIT: DropPolicy.WAIT,
    tracking_service_pb2.TrackingOpen.DROP_POLICY_NEWEST: DropPolicy.NEWEST,
}


@dataclass(frozen=True)
class TrackingReader:
    """Reads messages within the operator's bounds. Every method raises InvalidRequestError with all violated fields."""

    max_objects: int

    def opening(self, message: tracking_service_pb2.TrackingOpen) -> TrackingRequest:
        """The beginning of a session."""
        check = Checker()
        held = message.held_frames or DEFAULT_HELD_FRAMES
        check.require(held <= MAX_HELD_FRAMES, "held_frames", f"expected 1 to {MAX_HELD_FRAMES}, got {held}")
        request = TrackingRequest(
            tracker=message.tracker,
            options=read_options(check, message.options),
            non_overlapping=message.options.non_overlapping,
            drop_policy=check.choice(message.drop_policy, DROP_POLICIES, "drop_policy"),
            held_frames=held,
        )
        check.done()
        return request

    def frame(self, message: tracking_service_pb2.Frame) -> FrameRequest:
        """A frame; whether its prompts lie in it shows later."""
        check = Checker()
        request = FrameRequest(
            index=message.frame_index,
            image=read_image(check, message.image),
            timestamp_s=message.timestamp_seconds if message.HasField("timestamp_seconds") else None,
            prompts=self.prompts(check, message.prompts),
        )
        check.done()
        return request

    def correction(self, message: tracking_service_pb2.Correction) -> CorrectionRequest:
        """Prompts on a frame that is held."""
        check = Checker()
        check.require(bool(message.prompts), "prompts", "expected at least 1, got 0")
        request = CorrectionRequest(message.frame_index, self.prompts(check, message.prompts))
        check.done()
        return request

    def prompts(
        self, check: Checker, messages: Sequence[tracking_service_pb2.TrackPrompt], within: str = ""
    ) -> dict[int, FramePrompt]:
        """Prompts on one frame, in the field `prompts` of `within`."""
        count, prompts = len(messages), {}
        check.require(
            count <= self.max_objects, f"{within}prompts", f"expected at most {self.max_objects}, got {count}"
        )
        for index, message in enumerate(messages[: self.max_objects]):
            path = f"{within}prompts[{index}]"
            once = message.object_id not in prompts
            check.require(
                once, f"{path}.object_id", f"expected one prompt for each object, got {message.object_id} twice"
            )
            prompts[message.object_id] = _prompt(check, message, path)
        return prompts


def read_options(check: Checker, options: tracking_service_pb2.TrackingOptions) -> Options:
    """What to make of the masks."""
    formats = tuple(
        check.choice(value, MASK_FORMATS, f"options.mask_formats[{index}]")
        for index, value in enumerate(options.mask_formats[: len(MASK_FORMATS)])
    )
    once = len(options.mask_formats) == len(formats) == len(set(formats))
    check.require(once, "options.mask_formats", "expected each format at most once")
    threshold = check.optional(options, "mask_threshold", -MAX_LOGIT, MAX_LOGIT, "options.")
    return Options(
        mask_formats=formats or (MaskFormat.RLE,),
        mask_threshold=threshold or 0.0,
        max_hole_area=options.max_hole_area,
        min_part_area=options.min_part_area,
    )


def _prompt(check: Checker, message: tracking_service_pb2.TrackPrompt, path: str) -> FramePrompt:
    if not message.HasField("mask"):
        box = message.box if message.HasField("box") else None
        return read_prompt(check, service_pb2.ObjectPrompt(points=message.points, box=box), path, also="mask")
    alone = not message.points and not message.HasField("box")
    check.require(alone, f"{path}.mask", "expected it alone, got points or a box with it")
    return _rle(check, message.mask, f"{path}.mask")


def _rle(check: Checker, message: mask_pb2.RleMask, path: str) -> Rle:
    if len(message.size) != 2 or not all(message.size):
        check.refuse(f"{path}.size", f"expected [height, width] of the frame, got {list(message.size)}")
        return Rle(1, 1, b"")
    return Rle(message.size[0], message.size[1], message.counts.encode())


def one_of(message: tracking_service_pb2.TrackObjectsRequest) -> str:
    """Which message it is, after `open`.

    Raises:
        InvalidRequestError: None that may come then.
    """
    kind: str | None = message.WhichOneof("message")
    if kind is None or kind not in {"frame", "correct", "remove"}:
        raise InvalidRequestError.of(kind or "message", f"expected one of frame, correct, remove, got {kind or 'none'}")
    return kind


def tracked_frame(
    frame: TrackedFrame, dropped: Sequence[int], stages: Stages, request_id: str
) -> tracking_service_pb2.TrackedFrame:
    """The objects of a frame."""
    return tracking_service_pb2.TrackedFrame(
        frame_index=frame.index,
        timestamp_seconds=frame.timestamp_s,
        objects=[_object(found) for found in frame.objects],
        dropped_frames=dropped,
        corrected=frame.corrected,
        timings=timings(stages),
        memory_bytes=frame.memory_bytes,
        found=None if frame.found is None else found_objects(frame.found, request_id),
    )


def found_objects(found: FoundObjects, request_id: str) -> tracking_service_pb2.FoundObjects:
    """What phrases found."""
    return tracking_service_pb2.FoundObjects(
        frame=found.frame,
        objects=[tracking_service_pb2.FoundObject(**vars(each)) for each in found.objects],
        known=found.known,
        too_many=found.too_many,
        not_begun=found.not_begun,
        error=None if found.refusal is None else to_status(found.refusal, request_id),
    )


def _object(found: TrackedObject) -> tracking_service_pb2.TrackedObject:
    return tracking_service_pb2.TrackedObject(
        object_id=found.object_id,
        present=found.present,
        presence=found.presence,
        predicted_iou=found.predicted_iou,
        box=write_box(found.box) if found.box else None,
        area=found.area,
        masks=[write_mask(mask) for mask in found.encoded],
    )
