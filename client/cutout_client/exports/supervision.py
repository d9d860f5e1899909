"""Roboflow's supervision."""

from typing import Any

import numpy as np

from cutout_client.answer import Answer
from cutout_client.exports.classes import Classes, name_of
from cutout_client.extras import needed


def to_supervision(result: Answer) -> Any:
    """supervision.Detections; see `Segmentation.to_supervision`."""
    detections = needed("supervision", "to_supervision()").Detections
    classes = Classes()
    values: dict[str, Any] = {
        "xyxy": result.boxes,
        "mask": result.masks,
        "confidence": result.scores,
        "class_id": np.array([classes.number(each) for each in result], int),
    }
    if "data" in detections.__dataclass_fields__:  # since 0.18; its annotators read labels from there
        values["data"] = {"class_name": np.array([name_of(each) for each in result], str)}
    return detections(**values)
