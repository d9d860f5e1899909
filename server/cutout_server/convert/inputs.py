"""What a request is about, to domain types: its picture, and its boxes, points and masks."""

from typing import Any

import numpy as np
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as service_pb2

from cutout_server.convert.checks import Checker
from cutout_server.types import (
    LOW_RES,
    Box,
    FileImage,
    ImageSource,
    Logits,
    ObjectPrompt,
    StoredFrame,
    StoredImage,
    TensorImage,
    UriImage,
)

MAX_POINTS = 256
DTYPES: dict[int, np.dtype[Any]] = {
    image_pb2.RawTensor.DATA_TYPE_UNSPECIFIED: np.dtype("u1"),
    image_pb2.RawTensor.DATA_TYPE_UINT8: np.dtype("u1"),
    image_pb2.RawTensor.DATA_TYPE_UINT16: np.dtype("<u2"),
    image_pb2.RawTensor.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}


def read_image(check: Checker, message: image_pb2.Image, path: str = "image") -> ImageSource:
    """Where the picture comes from; something that nobody decodes stands in for what is noted."""
    match message.WhichOneof("source"):
        case "content":
            content = message.content  # Each access copies.
            check.require(bool(content), f"{path}.content", "expected a picture file, got no bytes")
            return FileImage(content)
        case "uri":
            return UriImage(message.uri)
        case "image_id":
            return StoredImage(message.image_id)
        case "video_frame":
            return StoredFrame(message.video_frame.video_id, message.video_frame.frame)
        case "tensor":
            return _tensor(check, message.tensor, f"{path}.tensor")
    check.refuse(path, "expected one of content, uri, image_id, tensor, video_frame, got none")
    return FileImage(b"")


def _tensor(check: Checker, message: image_pb2.RawTensor, path: str) -> ImageSource:
    dtype = check.choice(message.dtype, DTYPES, f"{path}.dtype")
    shape = (message.height, message.width, message.channels)
    for name, size in zip(("height", "width"), shape, strict=False):
        check.require(size >= 1, f"{path}.{name}", f"expected at least 1, got {size}")
    check.require(message.channels in {1, 3, 4}, f"{path}.channels", f"expected 1, 3 or 4, got {message.channels}")
    expected = message.height * message.width * message.channels * dtype.itemsize
    data = message.data
    if len(data) != expected or expected == 0:
        check.refuse(f"{path}.data", f"expected {expected} bytes, got {len(data)}")
        return FileImage(b"")
    return TensorImage(np.frombuffer(data, dtype).reshape(shape))


def read_box(check: Checker, message: mask_pb2.Box, path: str) -> Box:
    """A box with an area; whether it lies in the picture shows later."""
    box = Box(message.x_min, message.y_min, message.x_max, message.y_max)
    if check.finite(vars(box), path):
        check.require(
            box.x_min < box.x_max, f"{path}.x_max", f"expected more than x_min {box.x_min:g}, got {box.x_max:g}"
        )
        check.require(
            box.y_min < box.y_max, f"{path}.y_max", f"expected more than y_min {box.y_min:g}, got {box.y_max:g}"
        )
    return box


def read_prompt(check: Checker, message: service_pb2.ObjectPrompt, path: str, also: str = "logits") -> ObjectPrompt:
    """Everything about one object; whether it lies in the picture shows later. `also` is what else would have done."""
    has_box, has_logits = message.HasField("box"), message.HasField("logits")
    check.require(len(message.points) <= MAX_POINTS, f"{path}.points", f"expected at most {MAX_POINTS}")
    points = message.points[:MAX_POINTS]
    places = np.array([(point.x, point.y) for point in points], np.float32).reshape(-1, 2)
    labels = [point.label if point.HasField("label") else 1 for point in points]
    for index in np.flatnonzero(~np.isfinite(places).all(axis=1)).tolist():
        check.finite({"x": points[index].x, "y": points[index].y}, f"{path}.points[{index}]")
    for index, label in enumerate(labels):
        if label > 1:
            check.refuse(f"{path}.points[{index}].label", f"expected 0 or 1, got {label}")
    if not has_box and not has_logits:
        check.require(any(labels), path, f"expected a point with label 1, a box or {also}")
    return ObjectPrompt(
        points=places,
        labels=np.minimum(np.array(labels, np.uint32), 1).astype(np.int32),
        box=read_box(check, message.box, f"{path}.box") if has_box else None,
        logits=_logits(check, message.logits, f"{path}.logits") if has_logits else None,
    )


def read_region(check: Checker, message: service_pb2.Region, path: str) -> ObjectPrompt:
    """A box, or a point inside; whether it lies in the picture shows later."""
    match message.WhichOneof("place"):
        case "box":
            return ObjectPrompt(box=read_box(check, message.box, f"{path}.box"))
        case "point":
            point = message.point
            check.finite({"x": point.x, "y": point.y}, f"{path}.point")
            inside = not point.HasField("label") or point.label == 1
            check.require(inside, f"{path}.point.label", f"expected 1, got {point.label}")
            return ObjectPrompt(points=np.array([(point.x, point.y)], np.float32), labels=np.ones(1, np.int32))
    check.refuse(path, "expected one of box, point, got none")
    return ObjectPrompt()


def _logits(check: Checker, message: mask_pb2.LowResLogits, path: str) -> Logits | None:
    if (message.height, message.width) != (LOW_RES, LOW_RES):
        check.refuse(path, f"expected {LOW_RES} x {LOW_RES}, got {message.height} x {message.width}")
        return None
    data = message.data
    if len(data) != LOW_RES * LOW_RES * 4:
        check.refuse(f"{path}.data", f"expected {LOW_RES * LOW_RES * 4} bytes, got {len(data)}")
        return None
    logits = np.frombuffer(data, np.dtype("<f4")).reshape(LOW_RES, LOW_RES)
    check.require(bool(np.isfinite(logits).all()), f"{path}.data", "expected finite numbers")
    return logits
