"""The SageMaker container of Lang-SAM and SAM 2: `/ping`, and `/invocations` with an action."""

import io
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1.segmentation_pb2 import SegmentationOptions
from cutout.v1.segmentation_service_pb2 import ObjectPrompt, SegmentByPointsRequest, SegmentByTextRequest
from cutout_common import overlay
from cutout_common.rle import BoolMask, rle_decode, rle_decode_part, rle_union
from PIL import Image

from cutout_gateway.compat.answers import corners, score_of, text_of
from cutout_gateway.compat.fastapi import detail
from cutout_gateway.compat.interface import NOTHING, READY, Ask, Interface, Route, ready
from cutout_gateway.compat.reading import INVALID, PICTURE, RequestBody, from_json, picture
from cutout_gateway.errors import invalid
from cutout_gateway.transcode import Payload

_OPTIONS = SegmentationOptions(overlay=SegmentationOptions.OVERLAY_FORMAT_PLAIN)
HEALTHY = {"status": "healthy"}


class Invocation(RequestBody):
    """The body of `/invocations`; `rewrite` is ours: have a language model make noun phrases of the words."""

    action: Literal["langsam", "sam2", "ping"]
    image_url: str = ""
    text_prompt: str = ""
    x: float | None = None
    y: float | None = None
    rewrite: bool = False


def read_invocation(payload: Payload) -> Ask:
    """`POST /invocations`: SegmentByText, SegmentByPoints, or nothing but whether the server is ready."""
    body = from_json(Invocation, payload)
    if body.action == "ping":
        return Ask(READY, NOTHING, healthy)
    names = dict.fromkeys(PICTURE, "image_url") | {"phrases": "text_prompt", "phrases[0]": "text_prompt"}
    image = picture(body.image_url, "image_url") if body.image_url else image_pb2.Image()
    if body.action == "langsam":
        text = SegmentByTextRequest(image=image, phrases=[body.text_prompt], rewrite=body.rewrite, options=_OPTIONS)
        answer = partial(langsam_answer, body.text_prompt)
        return Ask.of("SegmentationService.SegmentByText", text, answer, names=names, decodes=True)
    if body.x is None or body.y is None:
        raise invalid("x" if body.x is None else "y", "expected the place of a point, in pixels")
    prompt = ObjectPrompt(points=[mask_pb2.Point(x=body.x, y=body.y, label=1)])
    point = SegmentByPointsRequest(image=image, prompts=[prompt], options=_OPTIONS)
    places = {"prompts[0].points[0]": "x, y"}
    return Ask.of("SegmentationService.SegmentByPoints", point, sam2_answer, names=names | places, decodes=True)


def healthy(*_: Any) -> dict[str, str]:
    """What is said of a server that is ready."""
    return HEALTHY


def langsam_answer(prompt: str, response: Any, _: str) -> dict[str, Any]:
    """Everything that the words name, the surest first; `tag` is what was looked for."""
    answer = response.segmentation
    rewritten = [each.phrase for each in answer.rewriting.phrases]
    return _pictures(answer) | {
        "boxes": [corners(each.prompt_box if each.HasField("prompt_box") else each.box) for each in answer.objects],
        "scores": [score_of(each) for each in answer.objects],
        "tag": " . ".join(rewritten) or prompt,
    }


def sam2_answer(response: Any, _: str) -> dict[str, Any]:
    """The object at the point; score 0 when there is none."""
    answer = response.segmentation
    return _pictures(answer) | {"score": max((each.predicted_iou for each in answer.objects), default=0.0)}


@dataclass(frozen=True)
class _Drawn:
    """An object as `overlay.draw` takes it."""

    found: Any
    prompt_box: Any

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.found.masks[0].rle.size
        return height, width

    @property
    def part(self) -> tuple[int, int, BoolMask]:
        return rle_decode_part(*self.image_size, self.found.masks[0].rle.counts)

    @property
    def area(self) -> int:
        return int(self.found.area)

    @property
    def label(self) -> str:
        return str(self.found.label)

    @property
    def score(self) -> float:
        return score_of(self.found)


def _pictures(answer: Any) -> dict[str, str]:
    """The upright picture, the same with the objects drawn on it, and what it shows inside of them, black around it."""
    original = answer.overlay.data
    with Image.open(io.BytesIO(original), formats=("PNG",)) as image:
        pixels = np.asarray(image.convert("RGB"))
    drawn = [_Drawn(each, each.prompt_box if each.HasField("prompt_box") else None) for each in answer.objects]
    height, width = pixels.shape[:2]
    inside = rle_decode(height, width, rle_union(height, width, [each.masks[0].rle.counts for each in answer.objects]))
    return {
        "original": text_of(original),
        "overlay": text_of(overlay.encode_png(overlay.draw(pixels, drawn))),
        "mask_only": text_of(overlay.encode_png(pixels * inside[:, :, None])),
    }


INTERFACE = Interface(
    "sagemaker",
    (Route("GET", "/ping", ready(HEALTHY)), Route("POST", "/invocations", read_invocation)),
    detail,
    lambda status, _: HTTPStatus.BAD_REQUEST if status == INVALID else status,
)
