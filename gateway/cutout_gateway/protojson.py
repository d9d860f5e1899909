"""ProtoJSON -> messages, by protobuf's json_format, strictly and with errors that name the field."""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cutout_gateway.errors import invalid
from cutout_gateway.faults import explain, merge, short
from cutout_gateway.walk import is_well_known, items_of

# As json_format's own bound; Python's stack would end not far beyond.
_MAX_DEPTH = 100
# A value takes as little as two bytes of JSON and hundreds of memory; no request of ours comes near.
_MAX_VALUES = 1_000_000
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"


def loads(data: bytes | bytearray, name: str = "body") -> Any:
    """Reads JSON, strictly: no key twice in an object, no NaN outside of a string, not a million values.

    Raises:
        HttpError: 400 that says where `name` is not JSON.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise invalid(name, f"has more than {_MAX_VALUES} values")
    try:
        return json.loads(data, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(name, f"is not JSON: {error}") from error


def parse_json(value: Any, message: Message, *, prefix: str = "") -> None:
    """Merges a JSON value into `message`, by the rules of ProtoJSON.

    Args:
        value: As `json.loads` gives it.
        message: What to fill.
        prefix: Where `message` is inside the request, for the texts of errors.

    Raises:
        HttpError: 400 that names the field and what is wrong with it.
    """
    _check(value, message.DESCRIPTOR, prefix)
    try:
        merge(value, message)
    except json_format.ParseError as failure:
        descriptor: Any = message.DESCRIPTOR  # of the implementation's own class
        raise explain(value, descriptor, prefix, failure) from failure


def _check(value: Any, message: Any, prefix: str, depth: int = 1) -> None:
    """Refuses what json_format takes: a list for a message, a field under both its names, what is not base64."""
    if depth > _MAX_DEPTH:
        raise invalid(prefix, f"is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, list | str | int | float) and not is_well_known(message):
        raise invalid(prefix or "body", f"expected an object, got {short(value)}")
    seen: dict[str, str] = {}
    for item in items_of(value, message, prefix):
        if seen.setdefault(item.field.name, item.key) != item.key:
            raise invalid(item.path, f"is given twice, as {seen[item.field.name]} and as {item.key}")
        if item.field.type == FieldDescriptor.TYPE_BYTES and isinstance(item.value, str):
            digits = item.value.encode().rstrip(b"=")
            if digits.translate(None, _BASE64) or len(digits) % 4 == 1:
                raise invalid(item.path, f"expected base64, got {short(item.value)}")
        elif item.field.message_type:
            _check(item.value, item.field.message_type, item.path, depth + 1)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice in an object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write it as a string")
