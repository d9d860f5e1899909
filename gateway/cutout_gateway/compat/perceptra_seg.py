"""perceptra-seg: boxes and points in JSON. Its RLE is COCO's before compression, as its document shows it."""

from functools import partial
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1.segmentation_pb2 import SegmentationOptions
from cutout.v1.segmentation_service_pb2 import ObjectPrompt, SegmentByBoxRequest, SegmentByPointsRequest
from cutout_common.masks import png_encode_part
from starlette.datastructures import Headers

from cutout_gateway.compat.answers import pixel_corners, rings, runs, text_of
from cutout_gateway.compat.fastapi import detail
from cutout_gateway.compat.interface import Ask, Interface, Route, ready
from cutout_gateway.compat.reading import PICTURE, RequestBody, from_json, picture
from cutout_gateway.errors import invalid
from cutout_gateway.transcode import Payload

Box = tuple[float, float, float, float]
Format = Literal["rle", "png", "polygons"]
Strategy = Literal["largest", "merge", "all"]
_FORMATS = {
    "rle": mask_pb2.MASK_FORMAT_RLE,
    "png": mask_pb2.MASK_FORMAT_PNG,
    "polygons": mask_pb2.MASK_FORMAT_POLYGONS,
}


class Point(RequestBody):
    """A click."""

    x: float
    y: float
    label: Literal[0, 1]


class Common(RequestBody):
    """What all bodies have."""

    image: str
    output_formats: tuple[Format, ...] = ("rle",)

    @property
    def formats(self) -> tuple[Format, ...]:
        """Each once."""
        return tuple(dict.fromkeys(self.output_formats))

    @property
    def picture(self) -> image_pb2.Image:
        """The picture, or where it is."""
        return picture(self.image)

    def options(self, strategy: Strategy = "all") -> SegmentationOptions:
        """What to make of the masks."""
        merged = SegmentationOptions.STRATEGY_MERGE if strategy == "merge" else SegmentationOptions.STRATEGY_ALL
        return SegmentationOptions(mask_formats=[_FORMATS[each] for each in self.formats], strategy=merged)


class BoxBody(Common):
    """The body of `/v1/segment/box`. There is one mask of a box, the best, so that every strategy gives that one."""

    box: Box
    strategy: Strategy = "largest"


class PointsBody(Common):
    """The body of `/v1/segment/points`: all points are of one object."""

    points: list[Point]


class AnyBody(Common):
    """The body of `/v1/segment`: an object for each box, and one for all points together."""

    boxes: list[Box] | None = None
    points: list[Point] | None = None
    strategy: Strategy = "largest"


def read_box(payload: Payload) -> Ask:
    """`POST /v1/segment/box`: SegmentByBox."""
    body = from_json(BoxBody, payload)
    request = SegmentByBoxRequest(image=body.picture, boxes=[_box(body.box)], options=body.options())
    names = PICTURE | {"boxes[0]": "box"}
    return Ask.of("SegmentationService.SegmentByBox", request, partial(one_answer, body.formats), names=names)


def read_points(payload: Payload) -> Ask:
    """`POST /v1/segment/points`: SegmentByPoints."""
    body = from_json(PointsBody, payload)
    if not body.points:
        raise invalid("points", "expected at least one point")
    return _ask(body, [_points(body.points)], {"prompts[0]": "points"}, "all", one_answer)


def read_any(payload: Payload) -> Ask:
    """`POST /v1/segment`: SegmentByPoints."""
    body = from_json(AnyBody, payload)
    boxes = body.boxes or []
    if not boxes and not body.points:
        raise invalid("boxes", "expected boxes or points, at least one of them")
    names = {f"prompts[{index}].box": f"boxes[{index}]" for index in range(len(boxes))}
    prompts = [ObjectPrompt(box=_box(box)) for box in boxes]
    if body.points:
        names[f"prompts[{len(prompts)}]"] = "points"
        prompts.append(_points(body.points))
    return _ask(body, prompts, names, body.strategy, partial(many_answer, body.strategy, len(prompts)))


def one_answer(formats: tuple[Format, ...], response: Any, request_id: str) -> dict[str, Any]:
    """The mask of the only prompt."""
    return many_answer("all", 1, formats, response, request_id)[0]


def many_answer(
    strategy: Strategy, count: int, formats: tuple[Format, ...], response: Any, request_id: str
) -> list[dict[str, Any]]:
    """The mask of each prompt, in their order, or one. A mask without pixels has area and score 0."""
    answer = response.segmentation
    found: list[Any] = list(answer.objects)
    if strategy == "all":
        by_prompt = {each.prompt_index: each for each in found}
        found = [by_prompt.get(index) for index in range(count)]
    else:
        found = [max(found, key=lambda each: each.area, default=None)]
    common = {
        "latency_ms": answer.timings.total_ms,
        "model_info": {"name": answer.models[-1], "backend": "cutout", "device": None},
        "request_id": request_id,
    }
    return [
        (_result(each, formats) if each else _nothing(answer.image.height, answer.image.width, formats)) | common
        for each in found
    ]


def _result(found: Any, formats: tuple[Format, ...]) -> dict[str, Any]:
    masks = dict(zip(formats, found.masks, strict=True)) if formats else {}
    return {
        "rle": runs(masks["rle"].rle) if "rle" in masks else None,
        "png_base64": text_of(masks["png"].png) if "png" in masks else None,
        "polygons": rings(masks["polygons"].polygons) if "polygons" in masks else None,
        "score": found.predicted_iou,
        "area": found.area,
        "bbox": pixel_corners(found.box),
    }


def _nothing(height: int, width: int, formats: tuple[Format, ...]) -> dict[str, Any]:
    png = png_encode_part(height, width, 0, 0, np.zeros((0, 0), np.bool_)) if "png" in formats else None
    return {
        "rle": {"size": [height, width], "counts": [height * width]} if "rle" in formats else None,
        "png_base64": text_of(png) if png is not None else None,
        "polygons": [] if "polygons" in formats else None,
        "score": 0.0,
        "area": 0,
        "bbox": None,
    }


def _ask(body: Common, prompts: list[ObjectPrompt], names: dict[str, str], strategy: Strategy, answer: Any) -> Ask:
    request = SegmentByPointsRequest(image=body.picture, prompts=prompts, options=body.options(strategy))
    made = partial(answer, body.formats)
    return Ask.of("SegmentationService.SegmentByPoints", request, made, names=PICTURE | names)


def _box(box: Box) -> mask_pb2.Box:
    return mask_pb2.Box(x_min=box[0], y_min=box[1], x_max=box[2], y_max=box[3])


def _points(points: list[Point]) -> ObjectPrompt:
    return ObjectPrompt(points=[mask_pb2.Point(x=each.x, y=each.y, label=each.label) for each in points])


def status_of(status: int, headers: Headers) -> int:
    """A key that is not there is 401, a wrong one 403."""
    return HTTPStatus.FORBIDDEN if status == HTTPStatus.UNAUTHORIZED and "authorization" in headers else status


INTERFACE = Interface(
    "perceptra-seg",
    (
        Route("POST", "/v1/segment/box", read_box),
        Route("POST", "/v1/segment/points", read_points),
        Route("POST", "/v1/segment", read_any),
        Route("GET", "/v1/healthz", ready({"status": "ok"})),
    ),
    detail,
    status_of,
)
