"""One object of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image
from cutout.v1 import mask_pb2
from cutout_common import masks
from cutout_common.overlay import draw
from numpy.typing import NDArray

from cutout_client.concepts import Concepts
from cutout_client.drawing import ground_of
from cutout_client.encodings import Polygon, decode, polygons_of
from cutout_client.extras import needed
from cutout_client.images import Picture
from cutout_client.notebooks import Shown
from cutout_client.prompts import Box


@dataclass(frozen=True)
class SegmentedObject(Shown):
    """One object.

    Attributes:
        label: The phrase, as the caller wrote it or as it was rewritten; empty where no phrase was asked for.
        detection_score: The detector's confidence, in [0, 1]; None without a detector.
        predicted_iou: The segmenter's own estimate of the mask's IoU with the true one.
        stability_score: In [0, 1]; None when it was not computed.
        prompt_index: Which phrase, box, prompt or region it came from.
        prompt_box: The box that prompted it; None for points alone and for everything.
        box: The smallest box of whole pixels around the mask.
        area: Pixels inside the mask.
        logits: (256, 256) float32 when they were asked for; to be used in a `Prompt`.
        encodings: The mask as it came, in each of the formats asked for.
        concepts: What its part of the picture shows; from `analyze` alone.
        picture: What was asked about.
    """

    label: str
    detection_score: float | None
    predicted_iou: float
    stability_score: float | None
    prompt_index: int
    prompt_box: Box | None
    box: Box
    area: int
    logits: NDArray[np.float32] | None = field(repr=False, compare=False)
    encodings: tuple[mask_pb2.Mask, ...] = field(repr=False)
    concepts: Concepts | None = None
    picture: Picture | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What to call it: its label, else the concept that describes it best, else nothing."""
        return self.label or (self.concepts.best.concept if self.concepts else "")

    @property
    def score(self) -> float:
        """What objects are ranked by: the detector's confidence when there is one, else the predicted IoU."""
        return self.predicted_iou if self.detection_score is None else self.detection_score

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool at the picture's size; decoded when it is first asked for, then kept, and read-only."""
        mask = decode(self.encodings[0])
        mask.flags.writeable = False
        return mask

    @property
    def rle(self) -> dict[str, Any]:
        """COCO compressed RLE, {"size": [height, width], "counts": str}: for JSON and for pycocotools."""
        if (sent := self._encoding("rle")) is not None:
            return {"size": list(sent.rle.size), "counts": sent.rle.counts}
        mask = mask_of(self)
        return {"size": list(mask.shape), "counts": masks.rle_encode(mask).decode("ascii")}

    @property
    def png(self) -> bytes:
        """A 1-bit greyscale PNG file; white is inside."""
        sent = self._encoding("png")
        return masks.png_encode(mask_of(self)) if sent is None else sent.png

    @property
    def polygons(self) -> tuple[Polygon, ...]:
        """The mask's outlines, with holes: exactly, unless the request had a `polygon_...` option.

        Raises:
            ValueError: They were not asked for.
        """
        sent = self._encoding("polygons")
        if sent is None:
            raise ValueError("outlines come on request: mask_formats=['polygons'], alone or among others")
        return polygons_of(sent.polygons)

    def to_shapely(self) -> Any:
        """A valid `shapely.MultiPolygon`, in pixels; needs the package shapely.

        Raises:
            ValueError: As for `polygons`.
        """
        shapely = needed("shapely", "to_shapely()")
        return shapely.MultiPolygon([(part.exterior, part.holes) for part in self.polygons])

    def _shown(self) -> tuple[PIL.Image.Image, Sequence["SegmentedObject"], str]:
        height, width = mask_of(self).shape
        return drawn(ground_of(self.picture, (height, width)), [self]), [self], ""

    def _encoding(self, name: str) -> mask_pb2.Mask | None:
        return next((each for each in self.encodings if each.WhichOneof("encoding") == name), None)


def mask_of(each: SegmentedObject) -> NDArray[np.bool_]:
    """`each.mask` without keeping it: a thousand masks of a large picture would fill the memory."""
    kept: NDArray[np.bool_] | None = vars(each).get("mask")
    return decode(each.encodings[0]) if kept is None else kept


def drawn(pixels: NDArray[np.uint8], objects: Sequence[SegmentedObject]) -> PIL.Image.Image:
    """(H, W, 3) pixels with masks, outlines and labels of objects drawn on them."""
    height, width, _ = pixels.shape
    return PIL.Image.fromarray(draw(pixels, [_Drawn(each, (height, width)) for each in objects]))


@dataclass(frozen=True)
class _Drawn:
    """An object as `draw` takes it."""

    found: SegmentedObject
    image_size: tuple[int, int]

    @property
    def part(self) -> tuple[int, int, NDArray[np.bool_]]:
        x_min, y_min, x_max, y_max = map(int, self.found.box)
        return y_min, x_min, mask_of(self.found)[y_min:y_max, x_min:x_max]

    @property
    def area(self) -> int:
        return self.found.area

    @property
    def label(self) -> str:
        return self.found.name

    @property
    def score(self) -> float:
        concepts = None if self.found.label else self.found.concepts
        return concepts.best.score if concepts else self.found.score

    @property
    def prompt_box(self) -> Box | None:
        return self.found.prompt_box
