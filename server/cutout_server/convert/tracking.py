"""What TrackObjects and TrackVideo have in common, to domain types and back: prompts, phrases, options, frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutout.v1 import image_pb2, mask_pb2, tracking_service_pb2
from cutout.v1 import segmentation_service_pb2 as service_pb2

from cutout_server.call_context import Stages
from cutout_server.convert.checks import Checker
from cutout_server.convert.inputs import read_prompt
from cutout_server.convert.options import read_mask_formats, read_mask_threshold
from cutout_server.convert.requests import RequestReader
from cutout_server.convert.responses import timings, write_box, write_mask
from cutout_server.errors import InvalidRequestError, to_status
from cutout_server.types import (
    EncodedMask,
    FoundObjects,
    FramePrompt,
    MaskFormat,
    Options,
    Rle,
    TextRequest,
    TrackedFrame,
    TrackedObject,
)

Opening = tracking_service_pb2.TrackingOpen | tracking_service_pb2.TrackVideoRequest
MAX_RLE_CHARACTERS = 1 << 20  # To read one takes eighty times as much memory for a moment.
# In place of the frame: a request of phrases is not read without a picture.
_TO_BE_GIVEN = image_pb2.Image(image_id="to be given")


@dataclass(frozen=True)
class TrackingReader:
    """Reads what is said of a frame within the operator's bounds.

    Attributes:
        requests: Reads phrases.
        max_objects: Bound on objects.
    """

    requests: RequestReader
    max_objects: int

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

    def phrases(self, message: Opening, phrases: Sequence[str], box_threshold: float | None) -> TextRequest:
        """Phrases on one frame, looked for as the beginning says; whoever looks gives the request its picture.

        Raises:
            InvalidRequestError: With all violated fields, as of a SegmentByTextRequest.
        """
        most = self.requests.max_prompts
        if len(phrases) > most:  # Before they are copied.
            raise InvalidRequestError.of("phrases", f"expected 1 to {most}, got {len(phrases)}")
        text = service_pb2.SegmentByTextRequest(
            image=_TO_BE_GIVEN, phrases=phrases, detector=message.detector, segmenter=message.segmenter
        )
        return replace(self.requests.text(text), box_threshold=box_threshold)


def read_options(check: Checker, options: tracking_service_pb2.TrackingOptions) -> Options:
    """What to make of the masks."""
    return Options(
        mask_formats=read_mask_formats(check, options.mask_formats) or (MaskFormat.RLE,),
        mask_threshold=read_mask_threshold(check, options),
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
        got = list(message.size) if len(message.size) == 2 else f"{len(message.size)} numbers"
        check.refuse(f"{path}.size", f"expected [height, width] of the frame, got {got}")
        return Rle(1, 1, b"")
    counts = message.counts
    if len(counts) > MAX_RLE_CHARACTERS:
        check.refuse(f"{path}.counts", f"expected at most {MAX_RLE_CHARACTERS} characters, got {len(counts)}")
        return Rle(1, 1, b"")
    return Rle(message.size[0], message.size[1], counts.encode())


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


def encoded_of(frame: TrackedFrame) -> list[EncodedMask]:
    """The masks of all objects of a frame."""
    return [mask for found in frame.objects for mask in found.encoded]


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
