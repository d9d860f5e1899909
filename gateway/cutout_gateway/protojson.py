"""ProtoJSON -> messages, by protobuf's json_format, strictly and with errors that name the field."""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cutout_gateway.errors import HttpError, invalid
from cutout_gateway.json_fields import is_well_known, items_of
from cutout_gateway.parse_errors import explain, merge, short

# As json_format's own bound; Python's stack would end not far beyond.
_MAX_DEPTH = 100
# A value takes as little as two bytes of JSON, hundreds of memory and tens of microseconds.
MAX_VALUES = 65_536
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"


def loads(data: bytes | bytearray, name: str = "body") -> Any:
    """Reads JSON, strictly: no key twice in an object, no NaN outside of a string, text that is Unicode.

    Raises:
        HttpError: 400 that says where `name` is not JSON, or that it has too many values or levels.
    """
    if values_at_most(data) > MAX_VALUES:
        raise invalid(name, f"has more than {MAX_VALUES} values")
    try:
        value = json.loads(data, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep(name) from None
    except ValueError as error:
        raise invalid(name, f"is not JSON: {error}") from error
    _check_levels(value, name)
    return value


def values_at_most(data: bytes | bytearray) -> int:
    """A bound on the values in a JSON text: each but the first follows a comma, or what opens a list or an object."""
    return 1 + sum(map(data.count, (b",", b"[", b"{")))


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


def _check_levels(value: Any, name: str) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item, name)
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key, name)
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return
        level = inner
    raise _too_deep(name)


def _check_text(text: str, name: str) -> None:
    """Python's JSON reader lets half of a surrogate pair through, which no UTF-8 can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise invalid(name, "has half of a surrogate pair (\\ud800 to \\udfff) in a string") from None


def _too_deep(name: str) -> HttpError:
    return invalid(name, f"is nested more than {_MAX_DEPTH} deep")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice in an object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write it as a string")
