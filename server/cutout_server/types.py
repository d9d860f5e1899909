"""What the server works with once a message has been decoded. All of it is frozen; arrays are not to be written to.

Axis order is (height, width); coordinates are (x, y) in absolute pixels of the upright picture, origin top left.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]  # (H, W, 3), values in [0, 255]
BoolMask = NDArray[np.bool_]  # (H, W)
Logits = NDArray[np.float32]  # (h, w); above the threshold is inside
Features = NDArray[np.float32]  # (D,) of unit length

LOW_RES = 256  # Side of the logits that callers get and send.


class Strategy(Enum):
    """Which masks come back."""

    ALL = "all"
    BEST = "best"
    LARGEST = "largest"
    MERGE = "merge"


class MaskFormat(Enum):
    """How a mask is written."""

    RLE = "rle"
    PNG = "png"
    BITS = "bits"
    POLYGONS = "polygons"


class OverlayFormat(Enum):
    """How an overlay, or a picture that was made, is written."""

    PNG = "image/png"
    JPEG = "image/jpeg"


class OmissionReason(Enum):
    """Why a mask was left out."""

    EMPTY = "empty"
    BELOW_MIN_AREA = "below_min_area"
    DUPLICATE = "duplicate"
    BEYOND_MAX_OBJECTS = "beyond_max_objects"
    BELOW_PREDICTED_IOU = "below_predicted_iou"
    BELOW_STABILITY = "below_stability"
    CUT_OFF = "cut_off"
    SAME_PHRASE = "same_phrase"


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    Attributes:
        height: Rows.
        width: Columns.
        key: Equal for equal pixels alone, as far as anyone knows how to find others.
        source: Its pixels, or what makes them.
    """

    height: int
    width: int
    key: str
    source: RgbImage | Callable[[], RgbImage] = field(repr=False)

    @classmethod
    def of(cls, pixels: RgbImage, key: str) -> "Picture":
        """A picture whose pixels are there."""
        return cls(pixels.shape[0], pixels.shape[1], key, pixels)

    @property
    def is_decoded(self) -> bool:
        """Whether `pixels` takes no time."""
        return not callable(self.source)

    @cached_property
    def pixels(self) -> RgbImage:
        """(H, W, 3) uint8 RGB."""
        return self.source() if callable(self.source) else self.source


@dataclass(frozen=True)
class FileImage:
    """A picture file as it came.

    Attributes:
        content: The file.
        field: Which of the contract's fields it came in, so that errors can name it.
    """

    content: bytes = field(repr=False)
    field: str = "image.content"


@dataclass(frozen=True)
class UriImage:
    """A picture to be fetched."""

    uri: str


@dataclass(frozen=True)
class StoredImage:
    """A picture that was uploaded before."""

    image_id: str


@dataclass(frozen=True)
class TensorImage:
    """Pixels without a file.

    Attributes:
        values: (H, W, C) of uint8, uint16 or float32 in [0, 1]; C is 1, 3 or 4.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32] = field(repr=False)


ImageSource = FileImage | UriImage | StoredImage | TensorImage


@dataclass(frozen=True)
class Box:
    """[x_min, x_max) x [y_min, y_max), in pixels."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True)
class ObjectPrompt:
    """What is known about one object: at least one of points, box and logits.

    Attributes:
        points: (N, 2) float32, (x, y) in pixels.
        labels: (N,) int32; 1 inside, 0 outside.
        box: A box around it, clipped to the picture.
        logits: (256, 256) float32 from an earlier answer of the same segmenter on the same picture.
    """

    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    box: Box | None = None
    logits: Logits | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles; see the contract's message of the same name."""

    tile_size: int = 1024
    overlap: float = 0.25


@dataclass(frozen=True)
class Options:
    """What to make of the masks; see SegmentationOptions in the contract for each field's meaning."""

    multimask: bool = False
    strategy: Strategy = Strategy.ALL
    mask_formats: tuple[MaskFormat, ...] = (MaskFormat.RLE,)
    overlay: OverlayFormat | None = None
    return_logits: bool = False
    mask_threshold: float = 0.0
    min_area: int = 0
    max_hole_area: int = 0
    min_part_area: int = 0
    nms_iou: float | None = None
    max_objects: int = 1000
    tiling: Tiling | None = None


@dataclass(frozen=True)
class Exemplar:
    """An example of what is wanted, or of what is not.

    Attributes:
        box: In pixels of the picture.
        positive: Whether it is wanted.
    """

    box: Box
    positive: bool


@dataclass(frozen=True, kw_only=True)
class MasksRequest:
    """What all requests have that make masks.

    Attributes:
        image: None inside a session.
        segmenter: Its name; empty for the server's choice, and inside a session.
        options: What to make of the masks.
    """

    image: ImageSource | None
    segmenter: str = ""
    options: Options = Options()

    def with_image(self, image: ImageSource | None) -> Self:
        """The same of another image."""
        return replace(self, image=image)

    def with_options(self, options: Options) -> Self:
        """The same with other options."""
        return replace(self, options=options)

    @property
    def is_repeatable(self) -> bool:
        """Whether an equal request has an equal answer."""
        return True


@dataclass(frozen=True, kw_only=True)
class TextRequest(MasksRequest):
    """Segment what the phrases name."""

    phrases: tuple[str, ...]
    box_threshold: float | None = None
    text_threshold: float | None = None
    detector: str = ""
    exemplars: tuple[Exemplar, ...] = ()
    box_nms_iou: float | None = None
    rewrite: bool = False

    @property
    def is_repeatable(self) -> bool:
        """What a language model says is not the same each time, and may be a failure."""
        return not self.rewrite


@dataclass(frozen=True, kw_only=True)
class PromptsRequest(MasksRequest):
    """Segment one object for each prompt; boxes are prompts that have only a box.

    Attributes:
        kind: Which of the contract's fields the prompts came in, so that errors can name it.
    """

    prompts: tuple[ObjectPrompt, ...]
    kind: Literal["boxes", "prompts", "regions"]


@dataclass(frozen=True, kw_only=True)
class EverythingRequest(MasksRequest):
    """Segment everything; see the contract's SegmentEverythingRequest for each field's meaning."""

    points_per_side: int = 32
    predicted_iou_threshold: float | None = None
    stability_threshold: float | None = None
    box_nms_iou: float = 0.7
    stability_offset: float = 1.0
    crop_layers: int = 0
    crop_overlap: float = 512 / 1500
    crop_points_downscale: int = 1
    crop_nms_iou: float = 0.7


@dataclass(frozen=True)
class AnalyzeRequest:
    """Say what the image and its regions show.

    Attributes:
        concepts: As the caller wrote them.
        template: What is compared, with the concept in place of "{}".
        regions: How the regions are found, and in which image.
    """

    concepts: tuple[str, ...]
    template: str
    classifier: str
    regions: PromptsRequest | EverythingRequest

    @property
    def image(self) -> ImageSource | None:
        """See MasksRequest."""
        return self.regions.image

    @property
    def options(self) -> Options:
        """See MasksRequest."""
        return self.regions.options

    def with_image(self, image: ImageSource | None) -> "AnalyzeRequest":
        """See MasksRequest."""
        return replace(self, regions=self.regions.with_image(image))

    @property
    def is_repeatable(self) -> bool:
        """See MasksRequest."""
        return self.regions.is_repeatable


SegmentRequest = MasksRequest | AnalyzeRequest


@dataclass(frozen=True)
class GenerateRequest:
    """Make one picture for each prompt.

    Attributes:
        width: In pixels; 0 for the generator's own.
        height: Likewise.
        seed: Of the first picture.
        then: What to do with each picture, which takes the place of its own image.
        then_field: Which of the contract's fields it came in, so that errors can name it.
    """

    prompts: tuple[str, ...]
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    generator: str
    file_format: OverlayFormat
    then: SegmentRequest | None
    then_field: str | None


@dataclass(frozen=True)
class GenerationProgress:
    """How far a picture has come: `step` of `steps` are done."""

    prompt_index: int
    step: int
    steps: int


@dataclass(frozen=True)
class GeneratedPicture:
    """A picture that was made.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        data: The same as a file.
    """

    prompt_index: int
    seed: int
    pixels: RgbImage = field(repr=False)
    content_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class ConceptScore:
    """How well a concept describes a picture.

    Attributes:
        concept: As the caller wrote it.
        score: Softmax over those of the request's concepts that do not read alike, in [0, 1].
        concept_index: Its index in the request.
        same_as: The index of an earlier one that it reads like, and with which it shares its score.
    """

    concept: str
    score: float
    concept_index: int
    same_as: int | None = None


@dataclass(frozen=True)
class RewrittenPhrase:
    """A noun phrase in place of a sentence.

    Attributes:
        phrase: What is looked for.
        prompt_index: The index of the caller's phrase that it stands for.
    """

    phrase: str
    prompt_index: int


@dataclass(frozen=True)
class Rewriting:
    """What a language model made of the caller's phrases.

    Attributes:
        phrases: What is looked for; the caller's own words when it failed.
        failure: Why it failed, for the caller; empty when it did not.
    """

    phrases: tuple[RewrittenPhrase, ...]
    failure: str = ""


@dataclass(frozen=True)
class Rle:
    """A mask at the picture's size as COCO compressed RLE: small enough to keep by the hundred.

    Attributes:
        height: Rows.
        width: Columns.
        counts: Compressed run lengths, column-major, ASCII.
    """

    height: int
    width: int
    counts: bytes = field(repr=False)


@dataclass(frozen=True)
class MaskPatch:
    """A mask at the picture's size, of which only a part is held: outside of that, nothing is inside.

    Attributes:
        height: Rows of the picture.
        width: Its columns.
        top: The part's first row.
        left: Its first column.
        inside: (h, w) bool, the part; it may be empty.
    """

    height: int
    width: int
    top: int
    left: int
    inside: BoolMask = field(repr=False)

    @classmethod
    def of(cls, mask: BoolMask) -> "MaskPatch":
        """Keeps a copy of what is within the tight box of a (H, W) mask."""
        height, width = mask.shape
        return cls(height, width, 0, 0, mask).tightened()

    def tightened(self) -> "MaskPatch":
        """The same, of which no more is held than the tight box; that is a copy unless it was tight."""
        rows, columns = (np.flatnonzero(self.inside.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return MaskPatch(self.height, self.width, 0, 0, np.zeros((0, 0), np.bool_))
        part = self.inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if part.shape == self.inside.shape:
            return self
        top, left = self.top + int(rows[0]), self.left + int(columns[0])
        return MaskPatch(self.height, self.width, top, left, part.copy())

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Height, width, top and left."""
        return self.height, self.width, self.top, self.left

    @property
    def box(self) -> Box:
        """Around the part."""
        height, width = self.inside.shape
        return Box(float(self.left), float(self.top), float(self.left + width), float(self.top + height))

    def whole(self) -> BoolMask:
        """(H, W) bool."""
        mask = np.zeros((self.height, self.width), np.bool_)
        height, width = self.inside.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.inside
        return mask


@dataclass(frozen=True)
class Polygon:
    """One connected part of a mask.

    Attributes:
        exterior: (N, 2) float32, (x, y) of the vertices along pixel edges.
        holes: The same for each hole.
    """

    exterior: NDArray[np.float32]
    holes: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class PolygonMask:
    """A mask's outlines."""

    height: int
    width: int
    polygons: tuple[Polygon, ...]


@dataclass(frozen=True)
class BitMask:
    """A mask with one bit a pixel, rows padded to bytes, most significant bit leftmost."""

    height: int
    width: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class PngMask:
    """A mask as a 1-bit greyscale PNG file."""

    data: bytes = field(repr=False)


EncodedMask = Rle | PngMask | BitMask | PolygonMask


@dataclass(frozen=True)
class SegmentedObject:
    """One object of an answer; see the contract's message of the same name.

    Attributes:
        mask: What the server itself works with.
        encoded: The mask in each of the formats that the request asked for, in that order.
        concepts: What its part of the picture shows, the best first; empty unless that was asked.
    """

    prompt_index: int
    label: str
    detection_score: float | None
    predicted_iou: float
    stability_score: float | None
    prompt_box: Box | None
    box: Box
    area: int
    mask: Rle
    logits: Logits | None = field(default=None, repr=False)
    encoded: tuple[EncodedMask, ...] = ()
    concepts: tuple[ConceptScore, ...] = ()

    @property
    def score(self) -> float:
        """What objects are ranked by: the detector's confidence when there is one, else the predicted IoU."""
        return self.predicted_iou if self.detection_score is None else self.detection_score


@dataclass(frozen=True)
class Omission:
    """Masks that were left out for one reason, or phrases that were not asked.

    Attributes:
        threshold: What they did not reach, where that is the reason.
        best: The best value among them, likewise.
        same_as: The phrase that they read like.
    """

    reason: OmissionReason
    count: int
    prompt_indices: tuple[int, ...]
    threshold: float | None = None
    best: float | None = None
    same_as: int | None = None


@dataclass(frozen=True)
class EncodedOverlay:
    """The picture with everything drawn on it, as a file."""

    content_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class AnswerFacts:
    """What an answer says beside its objects.

    Attributes:
        image: What it is about.
        omissions: What was left out.
        models: Names of those that worked on it, in their order.
        concepts: What the whole image shows.
        rewriting: What became of the phrases; None when they were not to be rewritten.
    """

    image: Picture
    omissions: tuple[Omission, ...]
    models: tuple[str, ...]
    concepts: tuple[ConceptScore, ...]
    rewriting: Rewriting | None
