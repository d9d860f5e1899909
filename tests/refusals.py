"""Requests that a server refuses, and what it says then."""

import io
import zlib
from collections.abc import Callable, Iterator

import grpc
import pytest
from cutout.v1 import image_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import ErrorDetails, unpack
from grpc_status import rpc_status
from PIL import Image as Pillow

Options = segmentation_pb2.SegmentationOptions
BOX = mask_pb2.Box(x_min=1, y_min=1, x_max=9, y_max=9)
NAN = float("nan")


def png(width: int = 16, height: int = 16) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), "grey").save(file, "PNG")
    return file.getvalue()


GOOD = image_pb2.Image(content=png())


def boxes(*given: mask_pb2.Box, image: image_pb2.Image | None = GOOD, **options: object) -> pb2.SegmentByBoxRequest:
    return pb2.SegmentByBoxRequest(image=image, boxes=given or [BOX], options=Options(**options))


def points(*prompts: pb2.ObjectPrompt) -> pb2.SegmentByPointsRequest:
    return pb2.SegmentByPointsRequest(image=GOOD, prompts=prompts)


def text(*phrases: str, **more: object) -> pb2.SegmentByTextRequest:
    return pb2.SegmentByTextRequest(image=GOOD, phrases=phrases, **more)


def everything(**more: object) -> pb2.SegmentEverythingRequest:
    return pb2.SegmentEverythingRequest(image=GOOD, **more)


def image(**source: object) -> pb2.SegmentByBoxRequest:
    return boxes(image=image_pb2.Image(**source))


def tensor(**fields: object) -> pb2.SegmentByBoxRequest:
    whole = {"height": 2, "width": 2, "channels": 3, "data": bytes(12)} | fields
    return image(tensor=image_pb2.RawTensor(**whole))


def logits(side: int = 256, data: bytes | None = None) -> pb2.SegmentByPointsRequest:
    given = mask_pb2.LowResLogits(height=side, width=side, data=bytes(side * side * 4) if data is None else data)
    return points(pb2.ObjectPrompt(logits=given))


def huge_header() -> bytes:
    """A PNG whose header claims 20,000 x 20,000 pixels."""
    content = bytearray(png())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


METHODS = {
    pb2.SegmentByBoxRequest: ("SegmentByBox", "box"),
    pb2.SegmentByPointsRequest: ("SegmentByPoints", "points"),
    pb2.SegmentByTextRequest: ("SegmentByText", "text"),
    pb2.SegmentEverythingRequest: ("SegmentEverything", "everything"),
}


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, ErrorDetails]:
    """Code, message and details of a call that must fail; stream answers are read to their end."""
    with pytest.raises(grpc.RpcError) as refused:
        _drain(call())
    error = refused.value
    status = rpc_status.from_call(error)
    details = unpack(status) if status else ErrorDetails()
    assert dict(error.trailing_metadata() or ()).get("x-request-id") == (details.request_id or None)
    return error.code(), error.details(), details


def _drain(answer: object) -> None:
    if isinstance(answer, Iterator):
        list(answer)
