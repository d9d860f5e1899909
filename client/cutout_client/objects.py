"""One object of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image
from cutout.v1 import mask_pb2
from cutout_common import masks
from numpy.typing import NDArray

from cutout_client.concepts import Concepts
from cutout_client.images import Picture
from cutout_client.notebooks import Shown
from cutout_client.prompts import Box


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class Polygon:
    """One connected part of a mask.

    Attributes:
        exterior: (N, 2) float32, (x, y) of the vertices, corners of pixels; the last joins the first.
        holes: The same for each hole.
    """

    exterior: NDArray[np.float32]
    holes: tuple[NDArray[np.float32], ...]


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
        return tuple(
            Polygon(_ring(each.exterior), tuple(_ring(hole) for hole in each.holes)) for each in sent.polygons.polygons
        )

    def to_shapely(self) -> Any:
        """A valid `shapely.MultiPolygon`, in pixels; needs the package shapely.

        Raises:
            ValueError: As for `polygons`.
        """
        from cutout_client.exports.geojson import to_shapely  # noqa: PLC0415 - optional

        return to_shapely(self)

    def _shown(self) -> tuple[PIL.Image.Image, Sequence["SegmentedObject"], str]:
        from cutout_client.drawing import alone  # noqa: PLC0415 - which draws objects

        return alone(self, self.picture), [self], ""

    def _encoding(self, name: str) -> mask_pb2.Mask | None:
        return next((each for each in self.encodings if each.WhichOneof("encoding") == name), None)


def mask_of(each: SegmentedObject) -> NDArray[np.bool_]:
    """`each.mask` without keeping it: a thousand masks of a large picture would fill the memory."""
    kept: NDArray[np.bool_] | None = vars(each).get("mask")
    return decode(each.encodings[0]) if kept is None else kept


def decode(mask: mask_pb2.Mask) -> NDArray[np.bool_]:
    """(H, W) bool of a mask in any of its forms."""
    match mask.WhichOneof("encoding"):
        case "rle":
            height, width = mask.rle.size
            return masks.rle_decode(height, width, mask.rle.counts)
        case "png":
            return masks.png_decode(mask.png)
        case "bits":
            return masks.bits_decode(mask.bits.height, mask.bits.width, mask.bits.data)
        case "polygons":
            outlines = mask.polygons
            rings = [[_ring(ring) for ring in (each.exterior, *each.holes)] for each in outlines.polygons]
            return masks.polygons_decode(outlines.height, outlines.width, rings)
    raise ValueError("the server sent a mask in an encoding that this client does not know")


def _ring(message: mask_pb2.Ring) -> NDArray[np.float32]:
    return np.array(message.coordinates, np.float32).reshape(-1, 2)
