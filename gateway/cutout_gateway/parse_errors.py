"""What is wrong with JSON that cannot be read: json_format's own texts can be long, and name fields in their way."""

import json
import re
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cutout_gateway.errors import HttpError, invalid
from cutout_gateway.json_fields import Item, field_named, fields_of, is_well_known, map_value

_MANY_SPACES = re.compile(r"\s+")


def explain(value: Any, message: Descriptor, prefix: str, failure: Exception) -> HttpError:
    """The error that names the innermost field at fault.

    Args:
        value: JSON that `merge` refused.
        message: What it was to be.
        prefix: Where that is inside the request.
        failure: What is said when no single field is at fault.
    """
    if not is_well_known(message):
        if not isinstance(value, dict):
            return invalid(prefix or "body", f"expected an object, got {short(value)}")
        for key in value:
            if field_named(message, key) is None:
                expected = ", ".join(field.name for field in message.fields) or "none at all"
                return invalid(f"{prefix}.{key}" if prefix else key, f"is unknown; expected one of {expected}")
        for item in fields_of(value, message, prefix):
            if failure_here := _failure(item.field, item.value):
                return _explain_field(item, failure_here)
    return invalid(prefix or "body", _shorten(str(failure)))


def _explain_field(item: Item, failure: Exception) -> HttpError:
    field, value, path = item.field, item.value, item.path
    if inner := map_value(field):
        if not isinstance(value, dict):
            return invalid(path, f"expected an object, got {short(value)}")
        entries = list(value.items())
        name, value = entries[_first_fault(len(entries), lambda a, b: _failure(field, dict(entries[a:b])))]
        failure = _failure(field, {name: value}) or failure
        field, path = inner, f"{path}[{name!r}]"
    elif field.is_repeated:
        if not isinstance(value, list):
            return invalid(path, f"expected a list, got {short(value)}")
        index = _first_fault(len(value), lambda a, b: _failure(field, item.value[a:b]))
        path, value = f"{path}[{index}]", value[index]
    if field.message_type:
        return explain(value, field.message_type, path, failure)
    return invalid(path, f"expected {_kind(field)}, got {short(value)}")


def _first_fault(count: int, fails: Callable[[int, int], object]) -> int:
    """The index of an element for which a slice [a, b) fails, by halving: one by one would take minutes."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(low, middle) else (middle, high)
    return low


def _failure(field: FieldDescriptor, value: Any) -> json_format.ParseError | None:
    """Why a field cannot have this JSON value; None when it can."""
    try:
        merge({field.json_name: value}, _new(field.containing_type))
    except json_format.ParseError as failure:
        return failure
    return None


def merge(value: Any, message: Message) -> None:
    """Merges JSON into `message`.

    Raises:
        json_format.ParseError: It cannot be; the text is json_format's own.
    """
    pool: Any = message.DESCRIPTOR.file.pool
    try:
        json_format.ParseDict(value, message, descriptor_pool=pool)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as failure:
        # What json_format lets through for JSON of another shape than the message's.
        raise json_format.ParseError(str(failure)) from failure


def _new(message: Any) -> Message:
    created: Message = GetMessageClass(message)()
    return created


def _kind(field: FieldDescriptor) -> str:
    if field.enum_type:
        return "one of " + ", ".join(value.name for value in field.enum_type.values)
    kinds = {
        FieldDescriptor.CPPTYPE_INT32: "a 32-bit integer",
        FieldDescriptor.CPPTYPE_INT64: "a 64-bit integer",
        FieldDescriptor.CPPTYPE_UINT32: "an integer from 0 to 4294967295",
        FieldDescriptor.CPPTYPE_UINT64: "an integer from 0 to 18446744073709551615",
        FieldDescriptor.CPPTYPE_FLOAT: "a number",
        FieldDescriptor.CPPTYPE_DOUBLE: "a number",
        FieldDescriptor.CPPTYPE_BOOL: "true or false",
    }
    return kinds.get(field.cpp_type, "base64" if field.type == FieldDescriptor.TYPE_BYTES else "a string")


def short(value: Any) -> str:
    """The beginning of a value, to be quoted in an error."""
    return _shorten(json.dumps(value[:200] if isinstance(value, str) else value, ensure_ascii=False))


def _shorten(text: str, limit: int = 100) -> str:
    text = _MANY_SPACES.sub(" ", text[: 4 * limit])
    return text if len(text) <= limit else f"{text[:limit]}..."
