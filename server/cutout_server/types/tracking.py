"""What callers ask of a session that follows objects, and what they get."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from cutout_server.errors import CutoutError
from cutout_server.types.images import ImageSource
from cutout_server.types.masks import Box, EncodedMask, Rle
from cutout_server.types.requests import ObjectPrompt, Options, TextRequest

FramePrompt = ObjectPrompt | Rle  # Points and a box, or the object's mask.


class DropPolicy(Enum):
    """What becomes of frames that come faster than they are worked on."""

    WAIT = "wait"
    NEWEST = "newest"


@dataclass(frozen=True)
class TrackingRequest:
    """The beginning of a session; see the contract's TrackingOpen for each field's meaning."""

    tracker: str
    options: Options
    non_overlapping: bool
    drop_policy: DropPolicy
    held_frames: int


@dataclass(frozen=True)
class LiveRequest:
    """The beginning of a live session; see the contract's TrackingOpen.

    Attributes:
        phrases_every: 0 when phrases are not looked for again.
        first_found_id: The least id that is given to what they find.
    """

    tracking: TrackingRequest
    phrases_every: int
    first_found_id: int


@dataclass(frozen=True)
class FrameRequest:
    """A frame.

    Attributes:
        index: The caller's number of it.
        prompts: By the caller's number of the object, in the caller's order.
        phrases: What to look for in it.
        phrases_optional: Whether the frame is of use, too, when that cannot be looked for.
    """

    index: int
    image: ImageSource
    timestamp_s: float | None
    prompts: Mapping[int, FramePrompt]
    phrases: TextRequest | None = None
    phrases_optional: bool = False


@dataclass(frozen=True)
class CorrectionRequest:
    """Prompts on a frame that is held; attributes as of FrameRequest."""

    index: int
    prompts: Mapping[int, FramePrompt]


@dataclass(frozen=True)
class TrackedObject:
    """One object in a frame; see the contract's message of the same name.

    Attributes:
        mask: What the server itself works with; None while it is not present.
    """

    object_id: int
    present: bool
    presence: float
    predicted_iou: float
    mask: Rle | None = field(default=None, repr=False)
    box: Box | None = None
    area: int = 0
    encoded: tuple[EncodedMask, ...] = ()


@dataclass(frozen=True)
class FoundObject:
    """An object that a phrase found; see the contract's message of the same name."""

    object_id: int
    label: str
    score: float


@dataclass(frozen=True)
class FoundObjects:
    """What phrases found in a frame; see the contract's message of the same name."""

    frame: int
    objects: tuple[FoundObject, ...] = ()
    known: int = 0
    too_many: int = 0
    not_begun: int = 0
    refusal: CutoutError | None = None


@dataclass(frozen=True)
class TrackedFrame:
    """The objects of a frame; see the contract's message of the same name."""

    index: int
    timestamp_s: float | None
    objects: tuple[TrackedObject, ...]
    corrected: bool
    memory_bytes: int = field(default=0)
    found: FoundObjects | None = None


class Direction(Enum):
    """Which way objects are followed through a stored video."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "both"


@dataclass(frozen=True)
class VideoPrompt:
    """What is known of objects in one frame of a stored video.

    Attributes:
        frame: Its number.
        prompts: As of FrameRequest.
        phrases: What to look for there.
        phrases_again: Whether that is only looked for again, which need not be possible.
    """

    frame: int
    prompts: Mapping[int, FramePrompt]
    phrases: TextRequest | None
    phrases_again: bool = False

    @property
    def is_needed(self) -> bool:
        """Whether something would be lost if its frame could not be decoded."""
        return bool(self.prompts) or not self.phrases_again


@dataclass(frozen=True)
class VideoTrackRequest:
    """Objects to be followed through a stored video; see the contract's TrackVideoRequest.

    Attributes:
        end_frame: None for the video's end.
        phrases_every: 0 when phrases are not looked for again.
    """

    video_id: str
    tracking: TrackingRequest
    prompts: tuple[VideoPrompt, ...]
    direction: Direction
    start_frame: int
    end_frame: int | None
    every: int
    phrases_every: int
