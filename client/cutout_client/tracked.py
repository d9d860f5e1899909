"""What is said of objects in a video's frames, and what is found there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
import PIL.Image
from cutout.v1 import mask_pb2, tracking_service_pb2
from cutout_common import masks
from cutout_common.overlay import OverlayItem, draw
from numpy.typing import NDArray

from cutout_client import tasks
from cutout_client.answer import Timings
from cutout_client.encodings import decode
from cutout_client.found import FoundObjects, read_found
from cutout_client.images import ImageLike, Picture, PixelPicture
from cutout_client.messages import build, of_type, words
from cutout_client.prompts import Box, Boxes, MaskFormat, Point, Prompt
from cutout_client.responses import read_timings

# Pixels travel raw up to here: a PNG of each frame would take longer than following the objects.
_RAW_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class TrackPrompt:
    """What is known about one object in a frame: a mask, or at least one of points and box.

    Attributes:
        points: (x, y) inside the object, or (x, y, label) with label 1 inside and 0 outside, in pixels.
        box: x_min, y_min, x_max, y_max around it, in pixels.
        mask: (H, W) bool of the frame's size.
    """

    points: Sequence[Point] | NDArray[Any] = ()
    box: Sequence[float] | NDArray[Any] | None = None
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame with what is said in it; a bare picture is a frame in which nothing is.

    Attributes:
        image: Of any kind that `ImageLike` names.
        prompts: By object: an id that is new begins one.
        timestamp_s: Comes back with the answer.
        index: The frame's number, greater than those before; None for the next one.
        phrases: What to look for in it; what is found begins as objects, which `LiveStream.names` names and
            `TrackedFrame.found` tells of.
    """

    image: ImageLike
    prompts: Mapping[int, TrackPrompt] = field(default_factory=dict)
    timestamp_s: float | None = None
    index: int | None = None
    phrases: str | Sequence[str] = ()


class TrackOptions(TypedDict, total=False):
    """What to make of the masks; what is left out is the server's default. See TrackingOptions in the contract.

    Attributes:
        mask_formats: How masks travel; every result method works with any of them.
        mask_threshold: Logits above it are inside.
        max_hole_area: Holes of at most this many pixels are filled.
        min_part_area: Connected parts of fewer pixels are removed.
        non_overlapping: Give each pixel to one object at most.
    """

    mask_formats: Sequence[MaskFormat]
    mask_threshold: float | None
    max_hole_area: int
    min_part_area: int
    non_overlapping: bool


class LiveOptions(TrackOptions, total=False):
    """`TrackOptions`, and what to follow in frames that are sent, and how.

    Attributes:
        boxes: In the first frame, x_min, y_min, x_max, y_max each: objects 1, 2 and so on.
        prompts: In the first frame, by object.
        tracker: Name of the model. Default: the server's.
        held_frames: How many answered frames can be corrected. Default: 4.
        phrases: What to look for in the first frame; what is found begins as objects, and `names` of the answer say
            which; `found` of its frames says what else there was.
        phrases_every: Look for phrases again so many frames on, and again; what is new joins. Where that
            cannot be done `found.error` of the frame says why. Default: 0, once.
        detector: Name of the model that finds. Default: the server's.
        segmenter: Name of the model that cuts out what phrases find. Default: the server's.
        resume: Whether to go on at another server, or at the same one again, when this one is lost or stops; it is
            tried for the client's timeout, 60 s without one. See `LiveStream`. Default: True.
    """

    boxes: Boxes | None
    prompts: Mapping[int, TrackPrompt] | None
    tracker: str
    held_frames: int
    phrases: str | Sequence[str]
    phrases_every: int
    detector: str
    segmenter: str
    resume: bool


@dataclass(frozen=True, eq=False)
class TrackedObject:
    """One object in a frame.

    Attributes:
        object_id: The caller's number of it.
        present: Whether it is in the frame.
        presence: How sure the tracker is of that, in [0, 1].
        predicted_iou: The tracker's own estimate of the mask's IoU with the true one.
        box: The smallest box of whole pixels around the mask; None while it is not present.
        area: Pixels inside the mask.
        encodings: The mask as it came, in each of the formats asked for; empty while it is not present.
    """

    object_id: int
    present: bool
    presence: float
    predicted_iou: float
    box: Box | None
    area: int
    encodings: tuple[mask_pb2.Mask, ...] = field(repr=False)

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """(H, W) bool, None while it is not present; decoded when it is first asked for, then kept."""
        return decode(self.encodings[0]) if self.encodings else None


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The objects of a frame, ascending by id: a sequence of them.

    Attributes:
        index: The frame's number.
        timestamp_s: As it was sent.
        objects: All that are followed; after a correction those that were corrected, with `non_overlapping` all of the
            frame.
        dropped: Numbers of the frames that were dropped since the answer before.
        corrected: Whether this answers a correction.
        timings: Where the time went.
        memory_bytes: What the server remembers of the objects by now.
        picture: The frame as it was sent.
        size: (height, width) of it if it is not here.
        found: What words found in it; None where they were not to be looked for.
    """

    index: int
    timestamp_s: float | None
    objects: tuple[TrackedObject, ...]
    dropped: tuple[int, ...]
    corrected: bool
    timings: Timings
    memory_bytes: int
    picture: Picture = field(repr=False)
    size: tuple[int, int] | None = None
    found: FoundObjects | None = None

    def __iter__(self) -> Any:
        return iter(self.objects)

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> TrackedObject:
        return self.objects[index]

    def overlay(self) -> PIL.Image.Image:
        """The frame with masks, outlines and ids drawn on it; an object keeps its colour while others come and go."""
        pixels = self.picture.rgb()
        nothing = np.zeros(pixels.shape[:2], np.bool_)
        items = [
            OverlayItem(nothing if each.mask is None else each.mask, str(each.object_id), each.presence)
            for each in self.objects
        ]
        return PIL.Image.fromarray(draw(pixels, items))

    def labels(self) -> NDArray[np.uint16]:
        """(H, W): the id of the object that each pixel is of, 0 for none; of two the smaller one."""
        found = [each for each in self.objects if each.mask is not None]
        if found and found[0].mask is not None:
            height, width = found[0].mask.shape
        else:
            height, width = self.size or self.picture.rgb().shape[:2]
        labels = np.zeros((height, width), np.uint16)
        for each in sorted(found, key=lambda each: -each.area):
            labels[each.mask] = each.object_id
        return labels


def beginning(
    how: LiveOptions, *, newest: bool = False
) -> tuple[tracking_service_pb2.TrackObjectsRequest, dict[int, TrackPrompt], str | Sequence[str]]:
    """The first message of a session, and prompts and phrases in the first frame: boxes are objects 1, 2 and so on.

    Raises:
        TypeError: A value is of a type that its field does not take.
        ValueError: A box has not four numbers, or a prompt's id is that of a box, too.
    """
    policies = tracking_service_pb2.TrackingOpen
    looking: dict[str, Any] = {name: how.get(name) for name in ("detector", "segmenter", "phrases_every")}
    opening = tracking_service_pb2.TrackObjectsRequest(
        open=build(
            tracking_service_pb2.TrackingOpen,
            tracker=how.get("tracker", ""),
            held_frames=how.get("held_frames", 0),
            drop_policy=policies.DROP_POLICY_NEWEST if newest else policies.DROP_POLICY_WAIT,
            options=tracking_options(how),
            **looking,
        )
    )
    return opening, _first_prompts(how.get("boxes"), how.get("prompts")), how.get("phrases", ())


def tracking_options(options: TrackOptions) -> tracking_service_pb2.TrackingOptions:
    """What to make of the masks, of options that may say more."""
    given: dict[str, Any] = {name: options.get(name) for name in TrackOptions.__annotations__}
    given = {name: value for name, value in given.items() if value is not None}
    if "mask_formats" in given:
        given["mask_formats"] = tasks.mask_formats(given["mask_formats"])
    return build(tracking_service_pb2.TrackingOptions, **given)


def _first_prompts(boxes: Boxes | None, prompts: Mapping[int, TrackPrompt] | None) -> dict[int, TrackPrompt]:
    prompts = {} if prompts is None else prompts
    prompt_messages(prompts)  # Before a camera is asked.
    rows = tasks.rows(boxes, (4,), "boxes are x_min, y_min, x_max, y_max")
    said = {number: TrackPrompt(box=row) for number, row in enumerate(rows, 1)}
    if both := said.keys() & prompts.keys():
        raise ValueError(f"prompts must have other ids than the {len(rows)} boxes, which are 1 and so on; got {both}")
    return {**said, **prompts}


def frame_request(frame: Frame, index: int) -> tracking_service_pb2.TrackObjectsRequest:
    """A frame's message, without its picture; `fill_frame` puts it in."""
    phrases = words("phrases", frame.phrases)
    message = tracking_service_pb2.Frame(frame_index=index, prompts=prompt_messages(frame.prompts), phrases=phrases)
    if frame.timestamp_s is not None:
        message.timestamp_seconds = frame.timestamp_s
    return tracking_service_pb2.TrackObjectsRequest(frame=message)


def fill_frame(message: tracking_service_pb2.Frame, picture: Picture) -> None:
    """Puts the picture into a frame's message."""
    if isinstance(picture, PixelPicture) and picture.values.nbytes <= _RAW_BYTES:
        picture.fill_raw(message.image)
    elif not picture.fill(message.image):
        message.image.content = picture.file()


def correction_request(index: int, prompts: Mapping[int, TrackPrompt]) -> tracking_service_pb2.TrackObjectsRequest:
    """A correction's message."""
    correction = tracking_service_pb2.Correction(frame_index=index, prompts=prompt_messages(prompts))
    return tracking_service_pb2.TrackObjectsRequest(correct=correction)


def removal_request(object_ids: Sequence[int]) -> tracking_service_pb2.TrackObjectsRequest:
    """A removal's message."""
    return tracking_service_pb2.TrackObjectsRequest(remove=build(tracking_service_pb2.Removal, object_ids=object_ids))


def read_frame(
    message: tracking_service_pb2.TrackedFrame,
    picture: Picture,
    request_id: str,
    size: tuple[int, int] | None = None,
) -> TrackedFrame:
    """Reads the objects of a frame."""
    return TrackedFrame(
        index=message.frame_index,
        timestamp_s=message.timestamp_seconds if message.HasField("timestamp_seconds") else None,
        objects=tuple(_object(each) for each in message.objects),
        dropped=tuple(message.dropped_frames),
        corrected=message.corrected,
        timings=read_timings(message.timings),
        memory_bytes=message.memory_bytes,
        picture=picture,
        size=size,
        found=read_found(message.found, request_id) if message.HasField("found") else None,
    )


def _object(message: tracking_service_pb2.TrackedObject) -> TrackedObject:
    box = message.box
    return TrackedObject(
        object_id=message.object_id,
        present=message.present,
        presence=message.presence,
        predicted_iou=message.predicted_iou,
        box=Box(box.x_min, box.y_min, box.x_max, box.y_max) if message.HasField("box") else None,
        area=message.area,
        encodings=tuple(message.masks),
    )


def prompt_messages(prompts: Mapping[int, TrackPrompt]) -> list[tracking_service_pb2.TrackPrompt]:
    """What is said of objects in a frame.

    Raises:
        TypeError: They are no prompts by object.
    """
    of_type("prompts", prompts, Mapping, "a dict of TrackPrompts by object")
    for prompt in prompts.values():
        of_type("each of prompts", prompt, TrackPrompt, "a TrackPrompt")
    return [_prompt(object_id, prompt) for object_id, prompt in prompts.items()]


def _prompt(object_id: int, prompt: TrackPrompt) -> tracking_service_pb2.TrackPrompt:
    said = tasks.object_prompt(Prompt(points=prompt.points, box=prompt.box))
    called = {"object_id": "an object of prompts"}
    message = build(tracking_service_pb2.TrackPrompt, called, object_id=object_id, points=said.points)
    if said.HasField("box"):
        message.box.CopyFrom(said.box)
    if prompt.mask is not None:
        mask = np.asarray(prompt.mask)
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"a prompt's mask is (height, width) bool, not {mask.shape} {mask.dtype}")
        message.mask.CopyFrom(mask_pb2.RleMask(size=mask.shape, counts=masks.rle_encode(mask).decode()))
    return message
