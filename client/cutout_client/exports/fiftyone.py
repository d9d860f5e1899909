"""Voxel51's FiftyOne."""

from os import PathLike, fspath
from typing import Any

from cutout_client.answer import Answer
from cutout_client.exports.classes import name_of
from cutout_client.extras import needed
from cutout_client.objects import SegmentedObject, mask_of


def to_fiftyone(result: Answer, file: str | PathLike[str], field: str) -> Any:
    """A fiftyone.Sample; see `Segmentation.to_fiftyone`."""
    fiftyone = needed("fiftyone", "to_fiftyone()")
    found = [fiftyone.Detection(**_detection(each, result)) for each in result]
    return fiftyone.Sample(filepath=fspath(file), **{field: fiftyone.Detections(detections=found)})


def _detection(each: SegmentedObject, result: Answer) -> dict[str, Any]:
    """Its box as fractions of the picture, left, top, width and height, and the mask inside of it."""
    left, top, right, bottom = map(int, each.box)
    width, height = result.image.width, result.image.height
    return {
        "label": name_of(each),
        "bounding_box": [left / width, top / height, (right - left) / width, (bottom - top) / height],
        "mask": mask_of(each)[top:bottom, left:right].copy(),
        "confidence": each.score,
    }
