"""Parts of our answers in the forms that the neighbours have for them."""

import base64
from typing import Any

from cutout_common.rle import rle_lengths

Rings = list[list[list[float]]]


def text_of(data: bytes) -> str:
    """Base64 without line breaks."""
    return base64.b64encode(data).decode()


def corners(box: Any) -> list[float]:
    """A box as [x_min, y_min, x_max, y_max], in pixels."""
    return [box.x_min, box.y_min, box.x_max, box.y_max]


def pixel_corners(box: Any) -> list[int]:
    """The same in whole pixels, at least one on each side; those of a mask's own box are whole already."""
    left, top = round(box.x_min), round(box.y_min)
    return [left, top, max(round(box.x_max), left + 1), max(round(box.y_max), top + 1)]


def score_of(found: Any) -> float:
    """How sure the detector was of an object, or, without one, the segmenter of its mask."""
    return float(found.detection_score if found.HasField("detection_score") else found.predicted_iou)


def runs(mask: Any) -> dict[str, Any]:
    """An RLE as COCO has it before compression: lengths of the runs column after column, outside first."""
    height, width = mask.size
    return {"size": [height, width], "counts": rle_lengths(height, width, mask.counts).tolist()}


def rings(mask: Any) -> Rings:
    """The outlines of a mask, each [[x, y], ...], holes' too: what an odd number of them surrounds is inside."""
    return [
        [list(point) for point in zip(ring.coordinates[::2], ring.coordinates[1::2], strict=True)]
        for polygon in mask.polygons
        for ring in (polygon.exterior, *polygon.holes)
    ]
