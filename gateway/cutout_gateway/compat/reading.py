"""Bodies in the neighbours' forms: read by the gateway's own readers, checked by pydantic."""

import re
from collections.abc import Collection
from typing import Any, TypeVar

import grpc
from cutout.v1 import image_pb2
from cutout_common.status import FieldViolation, summary
from pydantic import BaseModel, ConfigDict, ValidationError

from cutout_gateway.errors import error, invalid, unsupported
from cutout_gateway.multipart import is_multipart, parse_form
from cutout_gateway.protojson import loads, parse_json
from cutout_gateway.transcode import Payload, parse_query

URLENCODED = "application/x-www-form-urlencoded"
INVALID = 422
"""The HTTP status of a body that is not of the form that is documented: FastAPI's, which most of the neighbours use."""

PICTURE = {"image": "image", "image.content": "image", "image.uri": "image"}
_SPACE = re.compile(r"\s+")

M = TypeVar("M", bound="RequestBody")


class RequestBody(BaseModel):
    """The fields of a body; others are refused, as everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def from_json(model: type[M], payload: Payload) -> M:
    """Reads JSON.

    Raises:
        HttpError: 400 when it is none, 422 that names every field that is wrong.
    """
    return _checked(model, loads(payload.data))


def from_form(model: type[M], payload: Payload, files: Collection[str]) -> M:
    """Reads a form of either kind; a part that is empty was left blank.

    Raises:
        HttpError: 400 when it is none, 415 for anything else than a form, 422 that names every field that is wrong.
    """
    values: dict[str, Any] = {}
    for name, value in _pairs(payload, files):
        if value and name in values:
            raise invalid(name, "is given twice")
        if value:
            values[name] = value
    return _checked(model, values)


def _pairs(payload: Payload, files: Collection[str]) -> list[tuple[str, Any]]:
    if is_multipart(payload.content_type):
        return [
            (part.name, bytes(part.data) if part.name in files else part.text(part.name))
            for part in parse_form(payload)
        ]
    if payload.content_type.partition(";")[0].strip().lower() != URLENCODED:
        raise unsupported(f"expected a form: multipart/form-data or {URLENCODED}")
    try:
        return list(parse_query(payload.data.decode()))
    except UnicodeDecodeError:
        raise invalid("body", "expected text in UTF-8") from None


def picture(text: str, name: str = "image") -> image_pb2.Image:
    """The picture that a text stands for: base64, a data URI in base64, or an address that the server is to fetch.

    Raises:
        HttpError: 400 when it is nothing of these.
    """
    if text.startswith(("http://", "https://")):
        return image_pb2.Image(uri=text)
    head, comma, encoded = text.partition(",")
    if text.startswith("data:") and not (comma and head.endswith(";base64")):
        raise invalid(name, "expected a data URI in base64")
    encoded = _SPACE.sub("", encoded if text.startswith("data:") else text)
    if not encoded:
        raise invalid(name, "expected base64, a data URI, or an http(s) address")
    image = image_pb2.Image()
    parse_json({"content": encoded}, image, prefix=name)
    return image


def _checked(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as failure:
        violations = [
            FieldViolation(_path(each["loc"]), each["msg"])
            for each in failure.errors(include_url=False, include_context=False, include_input=False)
        ]
        code, text = grpc.StatusCode.INVALID_ARGUMENT, summary(violations)
        raise error(INVALID, code, text, reason="INVALID_ARGUMENT", violations=violations) from None


def _path(steps: tuple[int | str, ...]) -> str:
    """As our own paths: `points[0].x`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".") or "body"
