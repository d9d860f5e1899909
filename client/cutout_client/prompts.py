"""What callers ask with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

Strategy = Literal["all", "best", "largest", "merge"]
MaskFormat = Literal["rle", "png", "bits", "polygons"]
PictureFormat = Literal["png", "jpeg"]
OverlayFormat = Literal["png", "jpeg", "plain"]
Point = Sequence[float]  # x, y or x, y, label


class Box(NamedTuple):
    """[x_min, x_max) x [y_min, y_max), in pixels of the upright picture; origin top left."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def width(self) -> float:
        """In pixels."""
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        """In pixels."""
        return self.y_max - self.y_min


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class Prompt:
    """What is known about one object: at least one of the three.

    Attributes:
        points: (x, y) inside the object, or (x, y, label) with label 1 inside and 0 outside, in pixels.
        box: x_min, y_min, x_max, y_max around it, in pixels.
        logits: (256, 256) float32, the `logits` of an earlier answer's object; same picture, same segmenter.
    """

    points: Sequence[Point] | NDArray[Any] = ()
    box: Sequence[float] | NDArray[Any] | None = None
    logits: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Exemplar:
    """An example for `segment_text`.

    Attributes:
        box: x_min, y_min, x_max, y_max around one object, in pixels.
        negative: Objects like it are not wanted.
    """

    box: Sequence[float]
    negative: bool = False


Prompts = Prompt | Sequence[Prompt] | Sequence[Point] | Point | NDArray[Any]
Boxes = Sequence[float] | Sequence[Sequence[float]] | NDArray[Any]
Exemplars = Exemplar | Sequence[Exemplar | Sequence[float]] | Sequence[float] | NDArray[Any]  # bare boxes are wanted
Regions = Sequence[float] | Sequence[Sequence[float]] | NDArray[Any]  # boxes of four numbers, points of two


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles that are looked at too, so that small objects are found.

    Attributes:
        tile_size: Side of a tile in pixels, in [256, 4096]; 0 is the server's default.
        overlap: How much of a tile its neighbour shows too, as a fraction of its side, in [0.05, 0.5].
    """

    tile_size: int = 0
    overlap: float | None = None


class Options(TypedDict, total=False):
    """What to make of the masks; what is left out is the server's default. See SegmentationOptions in the contract.

    Attributes:
        multimask: Three candidates for each prompt instead of one.
        strategy: Which masks come back.
        mask_formats: How masks travel; every result method works with any of them.
        overlay: Have the server draw the overlay too, in this format; "plain" is the upright picture itself, as a PNG.
        return_logits: Send each object's low-resolution logits.
        mask_threshold: Logits above it are inside.
        min_area: Objects of fewer pixels are left out.
        max_hole_area: Holes of at most this many pixels are filled.
        min_part_area: Connected parts of fewer pixels are removed.
        nms_iou: Of two masks of one label that overlap by more, the one with the lower score is left out.
        max_objects: At most this many come back, the best by score.
        tiling: Look at overlapping tiles of a large picture too; a number is their side in pixels.
        polygon_tolerance: How far polygons may leave the outline to have fewer vertices, in pixels.
        polygon_max_vertices: Raise that for each object until its polygons have at most this many vertices.
    """

    multimask: bool
    strategy: Strategy
    mask_formats: Sequence[MaskFormat]
    overlay: OverlayFormat | None
    return_logits: bool
    mask_threshold: float | None
    min_area: int
    max_hole_area: int
    min_part_area: int
    nms_iou: float | None
    max_objects: int
    tiling: Tiling | int | None
    polygon_tolerance: float
    polygon_max_vertices: int


class TextOptions(Options, total=False):
    """`Options`, and how `segment_text` is to look.

    Attributes:
        box_threshold: Finds with a lower score are left out.
        text_threshold: A phrase must match a find's words at least this well.
        box_nms_iou: Of two boxes found for one phrase that overlap by more, the one with the lower score is left out.
        exemplars: Boxes around examples of what is wanted, or `Exemplar(box, negative=True)` of what is not; with the
            phrase "visual" they alone say what to find. Not every model takes them.
        rewrite: Have a language model turn sentences into noun phrases first, if the operator set one up.
    """

    box_threshold: float | None
    text_threshold: float | None
    box_nms_iou: float | None
    exemplars: Exemplars | None
    rewrite: bool


class EverythingOptions(Options, total=False):
    """`Options`, and how `segment_everything` is to look: as the official automatic mask generators do.

    Attributes:
        points_per_side: The grid of point prompts has this many on each side, in [1, 64].
        predicted_iou_threshold: Masks with a lower predicted IoU are left out.
        stability_threshold: Masks with a lower stability score are left out.
        stability_offset: The stability score compares the masks at thresholds raised and lowered by this, in (0, 32].
        box_nms_iou: Of two masks whose boxes overlap by more, the one with the lower predicted IoU is left out.
        crop_layers: Look again in 4 ** i overlapping crops for each layer i up to this one, in [0, 3].
        crop_overlap: How far crops overlap, as a fraction of the picture's shorter side; halved at each layer.
        crop_points_downscale: Layer i has points_per_side divided by this ** i.
        crop_nms_iou: As box_nms_iou, between crops; the mask from the smaller crop stays.
    """

    points_per_side: int | None
    predicted_iou_threshold: float | None
    stability_threshold: float | None
    stability_offset: float | None
    box_nms_iou: float | None
    crop_layers: int | None
    crop_overlap: float | None
    crop_points_downscale: int | None
    crop_nms_iou: float | None


class StreamOptions(TextOptions, EverythingOptions, total=False):
    """`Options`, and those of `segment_text`, `segment_everything` and `analyze` that the prompt has a use for.

    Attributes:
        regions: As for `analyze`.
        template: As for `analyze`.
        classifier: As for `analyze`.
    """

    regions: Regions | None
    template: str
    classifier: str


class GenerateOptions(StreamOptions, total=False):
    """How to make pictures, and what to cut out of each at once; what is left out is the server's default.

    Attributes:
        negative_prompt: What no picture may show.
        width: In pixels, a multiple of 8 in [64, 2048].
        height: Likewise.
        steps: Of denoising, in [1, 200].
        guidance: How closely to follow the prompts, in [1, 30]; 1 turns classifier-free guidance off.
        seed: Of the first picture; the following ones have seed + 1 and so on. The same one makes the same picture.
        generator: Name of the model that makes pictures.
        image_format: "png" (exact) or "jpeg" (small).
        phrases: Cut out what these name, as `segment_text` does; at most one of this and the next two.
        concepts: Say which of these each picture shows, as `analyze` does.
        everything: Cut out everything.
        detector: As for `segment_text`.
        segmenter: Name of the model that cuts out.
    """

    negative_prompt: str
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    seed: int | None
    generator: str
    image_format: PictureFormat
    phrases: str | Sequence[str] | None
    concepts: str | Sequence[str] | None
    everything: bool
    detector: str
    segmenter: str
