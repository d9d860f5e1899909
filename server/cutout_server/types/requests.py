"""What callers ask for."""

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cutout_server.types.images import ImageSource
from cutout_server.types.masks import Box, Logits

_NO_POINTS = np.zeros((0, 2), np.float32)
_NO_LABELS = np.zeros(0, np.int32)


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
    draw: bool = True
    return_logits: bool = False
    mask_threshold: float = 0.0
    min_area: int = 0
    max_hole_area: int = 0
    min_part_area: int = 0
    nms_iou: float | None = None
    max_objects: int = 1000
    tiling: Tiling | None = None
    polygon_tolerance: float = 0.0
    polygon_max_vertices: int = 0


@dataclass(frozen=True)
class ObjectPrompt:
    """What is known about one object: at least one of points, box and logits.

    Attributes:
        points: (N, 2) float32, (x, y) in pixels.
        labels: (N,) int32; 1 inside, 0 outside.
        box: A box around it, clipped to the picture.
        logits: (256, 256) float32 from an earlier answer of the same segmenter on the same picture.
    """

    points: NDArray[np.float32] = field(default_factory=_NO_POINTS.copy)
    labels: NDArray[np.int32] = field(default_factory=_NO_LABELS.copy)
    box: Box | None = None
    logits: Logits | None = field(default=None, repr=False)


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


@dataclass(frozen=True)
class PromptFields:
    """What errors call prompts and their parts: as the caller's message does.

    Attributes:
        prompts: The list of them.
        box: A prompt's box, behind the prompt's own name.
        point: One of its points, likewise, with the point's index in place of "{}".
    """

    prompts: str = "prompts"
    box: str = ".box"
    point: str = ".points[{}]"


@dataclass(frozen=True, kw_only=True)
class PromptsRequest(MasksRequest):
    """Segment one object for each prompt; boxes are prompts that have only a box.

    Attributes:
        fields: What errors call the prompts.
    """

    prompts: tuple[ObjectPrompt, ...]
    fields: PromptFields = PromptFields()


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
