"""The PaliGemma segmentation API: a picture, or its address, and a prompt such as "segment cat" in a form."""

import io
import re
from http import HTTPStatus
from typing import Any

import numpy as np
from cutout.v1 import image_pb2
from cutout.v1.segmentation_pb2 import SegmentationOptions
from cutout.v1.segmentation_service_pb2 import SegmentByTextRequest
from cutout_common.rle import rle_decode, rle_window
from PIL import Image

from cutout_gateway.compat.answers import pixel_corners, text_of
from cutout_gateway.compat.interface import Ask, Interface, Route, said
from cutout_gateway.compat.reading import INVALID, PICTURE, RequestBody, from_form, from_json
from cutout_gateway.errors import invalid
from cutout_gateway.transcode import JSON, Payload

SIDE = 64
_VERB = re.compile(r"\s*segment\s+", re.IGNORECASE)


class Segment(RequestBody):
    """The form; the document's diagram shows it as JSON, too."""

    prompt: str
    image_url: str | None = None
    image_file: bytes | None = None
    model_id: str = ""


def read_segment(payload: Payload) -> Ask:
    """`POST /segment`: SegmentByText with what stands behind "segment", each thing between semicolons a phrase."""
    if payload.content_type.partition(";")[0].strip().lower() == JSON:
        form = from_json(Segment, payload)
    else:
        form = from_form(Segment, payload, {"image_file"})
    if (form.image_url is None) == (form.image_file is None):
        raise invalid("image_url", "expected either image_url or image_file")
    if form.image_url is not None and not form.image_url.startswith(("http://", "https://")):
        raise invalid("image_url", "expected an http(s) address")
    image = image_pb2.Image(content=form.image_file, uri=form.image_url)
    words = _VERB.sub("", form.prompt, count=1) if _VERB.match(form.prompt) else form.prompt
    request = SegmentByTextRequest(
        image=image,
        phrases=[part.strip() for part in words.split(";")],
        segmenter=model_name(form.model_id),
        options=SegmentationOptions(overlay=SegmentationOptions.OVERLAY_FORMAT_PLAIN),
    )
    source = "image_file" if form.image_file is not None else "image_url"
    names = dict.fromkeys(PICTURE, source) | {"phrases": "prompt", "segmenter": "model_id"}
    return Ask.of("SegmentationService.SegmentByText", request, segment_answer, names=names)


def model_name(model_id: str) -> str:
    """What the server calls a model of the Hub: "google/paligemma2-3b-mix-448" is "paligemma2-3b-448" there."""
    return model_id.rpartition("/")[2].replace("-mix-", "-")


def segment_answer(response: Any, _: str) -> dict[str, Any]:
    """The upright picture, and of each object its box in that picture's pixels and its mask within that box."""
    answer = response.segmentation
    return {"image": text_of(answer.overlay.data), "masks": [_mask(found) for found in answer.objects]}


def _mask(found: Any) -> dict[str, Any]:
    rle = found.masks[0].rle
    height, width = rle.size
    box = pixel_corners(found.prompt_box if found.HasField("prompt_box") else found.box)
    left, top, right, bottom = box
    rows, columns = bottom - top, right - left
    inside = rle_decode(rows, columns, rle_window(height, width, rle.counts, left, top, rows, columns))
    small = Image.fromarray(inside.astype(np.uint8) * 255).resize((SIDE, SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "PNG")
    return {"mask": text_of(file.getvalue()), "coordinates": box}


INTERFACE = Interface(
    "paligemma-api",
    (
        Route("POST", "/segment", read_segment),
        Route("GET", "/", said({"message": "Welcome to the PaliGemma Segmentation API!"})),
    ),
    lambda status, text, violations: {"status": "error", "detail": text},  # noqa: ARG005
    lambda status, _: HTTPStatus.BAD_REQUEST if status == INVALID else status,
)
