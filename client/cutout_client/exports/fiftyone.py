"""Voxel51's FiftyOne."""

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from cutout_client.exports import needed
from cutout_client.exports.classes import name_of
from cutout_client.objects import mask_of

if TYPE_CHECKING:
    from cutout_client.objects import SegmentedObject
    from cutout_client.results import Segmentation


def to_fiftyone(result: "Segmentation", file: str | PathLike[str], field: str) -> Any:
    """A fiftyone.Sample; see `Segmentation.to_fiftyone`."""
    fiftyone = needed("fiftyone", "to_fiftyone()")
    found = [fiftyone.Detection(**_detection(each, result)) for each in result]
    return fiftyone.Sample(filepath=fspath(file), **{field: fiftyone.Detections(detections=found)})


def _detection(each: "SegmentedObject", result: "Segmentation") -> dict[str, Any]:
    """Its box as fractions of the picture, left, top, width and height, and the mask inside of it."""
    left, top, right, bottom = map(int, each.box)
    width, height = result.image.width, result.image.height
    return {
        "label": name_of(each),
        "bounding_box": [left / width, top / height, (right - left) / width, (bottom - top) / height],
        "mask": mask_of(each)[top:bottom, left:right].copy(),
        "confidence": each.score,
    }
