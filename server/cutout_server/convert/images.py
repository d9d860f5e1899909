"""A request's picture to domain types."""

from typing import Any

import numpy as np
from cutout.v1 import image_pb2

from cutout_server.convert.checks import Checker
from cutout_server.types import FileImage, ImageSource, StoredFrame, StoredImage, TensorImage, UriImage

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
