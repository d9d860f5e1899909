"""Every wrong field is named, through the real stack, over gRPC and REST."""

import re

import grpc
import httpx
import numpy as np
import pytest
from conftest import Stubs
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from refusals import (
    BOX,
    GOOD,
    METHODS,
    NAN,
    boxes,
    everything,
    huge_header,
    image,
    logits,
    png,
    points,
    refusal,
    tensor,
    text,
)
from waiting import PATIENCE_S

INVALID: dict[str, tuple[Message, list[str]]] = {
    "no image": (boxes(image=None), ["image"]),
    "no image source": (boxes(image=image_pb2.Image()), ["image"]),
    "empty content": (image(content=b""), ["image.content"]),
    "not a picture": (image(content=b"hello, world"), ["image.content"]),
    "truncated": (image(content=png(300, 300)[:100]), ["image.content"]),
    "too many pixels": (image(content=huge_header()), ["image.content"]),
    "tensor size": (tensor(data=bytes(11)), ["image.tensor.data"]),
    "tensor channels": (tensor(channels=2, data=bytes(8)), ["image.tensor.channels"]),
    "tensor dtype": (tensor(dtype=9), ["image.tensor.dtype"]),
    "tensor height": (tensor(height=0, data=b""), ["image.tensor.height", "image.tensor.data"]),
    "tensor nan": (
        tensor(dtype=image_pb2.RawTensor.DATA_TYPE_FLOAT32, data=np.full(12, np.nan, "<f4").tobytes()),
        ["image.tensor.data"],
    ),
    "no boxes": (pb2.SegmentByBoxRequest(image=GOOD), ["boxes"]),
    "too many boxes": (boxes(*[BOX] * 257), ["boxes"]),
    "box turned round": (boxes(mask_pb2.Box(x_min=9, x_max=1, y_max=4)), ["boxes[0].x_max"]),
    "box without area": (boxes(BOX, mask_pb2.Box(x_min=3, x_max=3, y_max=4)), ["boxes[1].x_max"]),
    "box nan": (boxes(mask_pb2.Box(x_min=NAN, x_max=1, y_max=4)), ["boxes[0].x_min"]),
    "box outside": (boxes(BOX, mask_pb2.Box(x_min=90, x_max=99, y_max=4)), ["boxes[1]"]),
    "no prompts": (points(), ["prompts"]),
    "empty prompt": (points(pb2.ObjectPrompt()), ["prompts[0]"]),
    "only outside points": (points(pb2.ObjectPrompt(points=[mask_pb2.Point(x=1, y=1, label=0)])), ["prompts[0]"]),
    "label 2": (points(pb2.ObjectPrompt(points=[mask_pb2.Point(x=1, y=1, label=2)])), ["prompts[0].points[0].label"]),
    "point nan": (points(pb2.ObjectPrompt(points=[mask_pb2.Point(x=NAN, y=1)])), ["prompts[0].points[0].x"]),
    "point outside": (points(pb2.ObjectPrompt(points=[mask_pb2.Point(x=16, y=1)])), ["prompts[0].points[0]"]),
    "too many points": (points(pb2.ObjectPrompt(points=[mask_pb2.Point(x=1, y=1)] * 257)), ["prompts[0].points"]),
    "logits size": (logits(64), ["prompts[0].logits"]),
    "logits bytes": (logits(data=bytes(7)), ["prompts[0].logits.data"]),
    "logits nan": (logits(data=np.full(65536, np.nan, "<f4").tobytes()), ["prompts[0].logits.data"]),
    "no phrases": (text(), ["phrases"]),
    "blank phrase": (text("face", " . "), ["phrases[1]"]),
    "long phrase": (text("x" * 257), ["phrases[0]"]),
    "unknown word": (text("face", "submarine"), ["phrases[1]"]),
    "box threshold": (text("face", box_threshold=1.5), ["box_threshold"]),
    "text threshold": (text("face", text_threshold=NAN), ["text_threshold"]),
    "unknown detector": (text("face", detector="dino"), ["detector"]),
    "points per side": (everything(points_per_side=65), ["points_per_side"]),
    "iou threshold": (everything(predicted_iou_threshold=-1), ["predicted_iou_threshold"]),
    "stability threshold": (everything(stability_threshold=2), ["stability_threshold"]),
    "unknown segmenter": (pb2.SegmentByBoxRequest(image=GOOD, boxes=[BOX], segmenter="sam9"), ["segmenter"]),
    "unknown format": (boxes(mask_formats=[9]), ["options.mask_formats[0]"]),
    "format twice": (boxes(mask_formats=[1, 1]), ["options.mask_formats"]),
    "unknown strategy": (boxes(strategy=9), ["options.strategy"]),
    "unknown overlay": (boxes(overlay=9), ["options.overlay"]),
    "mask threshold": (boxes(mask_threshold=33), ["options.mask_threshold"]),
    "nms iou": (boxes(nms_iou=0), ["options.nms_iou"]),
    "max objects": (boxes(max_objects=1001), ["options.max_objects"]),
    "several at once": (
        boxes(mask_pb2.Box(x_min=9, x_max=1, y_min=9, y_max=1), strategy=9, image=None),
        ["boxes[0].x_max", "boxes[0].y_max", "image", "options.strategy"],
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_request_is_told_every_field_over_grpc(name: str, stubs: Stubs):
    """INVALID_ARGUMENT names each violated field and what was expected."""
    request, fields = INVALID[name]
    code, message, details = refusal(lambda: getattr(stubs.segmentation, METHODS[type(request)][0])(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(v.field for v in details.violations) == sorted(fields)
    assert all(v.description and v.description in message for v in details.violations)
    assert re.fullmatch(r"[A-Z_]+", details.reason)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_request_is_told_every_field_in_a_stream(name: str, stubs: Stubs):
    """StreamSegmentation says the same, with the path of the request inside."""
    request, fields = INVALID[name]
    kind = METHODS[type(request)][1]
    stream = pb2.StreamSegmentationRequest(**{kind: request})
    code, _, details = refusal(lambda: stubs.segmentation.StreamSegmentation(stream))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(v.field for v in details.violations) == sorted(f"{kind}.{field}" for field in fields)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_request_is_told_every_field_over_rest(name: str, gateway_url: str):
    """The gateway answers 400 with the same details."""
    request, fields = INVALID[name]
    kind = METHODS[type(request)][1]
    answer = httpx.post(
        f"{gateway_url}/v1/segment:{kind}", content=json_format.MessageToJson(request), timeout=PATIENCE_S
    )
    assert answer.status_code == 400
    (bad,) = (detail for detail in answer.json()["details"] if detail["@type"].endswith("BadRequest"))
    assert sorted(v["field"] for v in bad["fieldViolations"]) == sorted(fields)


@pytest.mark.parametrize("words", [["submarine"], ["face", "red car"]])
def test_an_unknown_word_is_answered_with_the_known_ones(words: list[str], stubs: Stubs):
    """The built-in detector says which words it knows."""
    _, message, _ = refusal(lambda: stubs.segmentation.SegmentByText(text(*words)))
    assert all(known in message for known in ("face", "person", "red"))
