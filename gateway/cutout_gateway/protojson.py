"""ProtoJSON -> messages, by protobuf's json_format, with errors that name the field."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cutout_gateway.errors import HttpError, invalid

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_MANY_SPACES = re.compile(r"\s+")


def field_named(message: Descriptor, name: str) -> FieldDescriptor | None:
    """The field with this name, either its own or its JSON one."""
    by_json_name = (field for field in message.fields if field.json_name == name)
    return message.fields_by_name.get(name) or next(by_json_name, None)


def loads(data: bytes | bytearray, name: str = "body") -> Any:
    """Reads JSON, strictly: no key twice in an object, no NaN outside of a string.

    Raises:
        HttpError: 400 that says where `name` is not JSON.
    """
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
        _merge(value, message)
    except json_format.ParseError as failure:
        descriptor: Any = message.DESCRIPTOR  # of the implementation's own class
        raise _explain(value, descriptor, prefix, failure) from failure


class _Item(NamedTuple):
    """One value in a JSON object, with its field and its path in the contract's own names."""

    key: str
    field: FieldDescriptor
    value: Any
    path: str


def _items(value: Any, message: Descriptor, prefix: str) -> Iterator[_Item]:
    """The values of a JSON object, those of its lists and maps one by one; without what has not their shape."""
    if not isinstance(value, dict) or _is_well_known(message):
        return
    for key, item in value.items():
        if (field := field_named(message, key)) is None:
            continue
        path = f"{prefix}.{field.name}" if prefix else field.name
        if field.message_type and field.message_type.GetOptions().map_entry:
            if isinstance(item, dict):
                inner = field.message_type.fields_by_name["value"]
                yield from (_Item(key, inner, entry, f"{path}[{name!r}]") for name, entry in item.items())
        elif field.is_repeated and isinstance(item, list):
            yield from (_Item(key, field, entry, f"{path}[{i}]") for i, entry in enumerate(item))
        else:
            yield _Item(key, field, item, path)


def _check(value: Any, message: Any, prefix: str) -> None:
    """Refuses what json_format takes: a list for a message, a field under both its names, what is not base64."""
    if isinstance(value, list | str | int | float) and not _is_well_known(message):
        raise invalid(prefix or "body", f"expected an object, got {_short(value)}")
    seen: dict[str, str] = {}
    for item in _items(value, message, prefix):
        if seen.setdefault(item.field.name, item.key) != item.key:
            raise invalid(item.path, f"is given twice, as {seen[item.field.name]} and as {item.key}")
        if item.field.type == FieldDescriptor.TYPE_BYTES and isinstance(item.value, str):
            digits = item.value.encode().rstrip(b"=")
            if digits.translate(None, _BASE64) or len(digits) % 4 == 1:
                raise invalid(item.path, f"expected base64, got {_short(item.value)}")
        elif item.field.message_type:
            _check(item.value, item.field.message_type, item.path)


def _merge(value: Any, message: Message) -> None:
    pool: Any = message.DESCRIPTOR.file.pool
    try:
        json_format.ParseDict(value, message, descriptor_pool=pool)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as failure:
        # What json_format lets through for JSON of another shape than the message's.
        raise json_format.ParseError(str(failure)) from failure


def _explain(value: Any, message: Descriptor, prefix: str, failure: Exception) -> HttpError:
    """Finds the innermost field at fault: json_format's own texts can be long, and name it in their own way."""
    if not _is_well_known(message):
        if not isinstance(value, dict):
            return invalid(prefix or "body", f"expected an object, got {_short(value)}")
        for key in value:
            if field_named(message, key) is None:
                expected = ", ".join(field.name for field in message.fields) or "none at all"
                return invalid(f"{prefix}.{key}" if prefix else key, f"is unknown; expected one of {expected}")
        for item in _items(value, message, prefix):
            if found := _fault_in(item, as_list=item.field.is_repeated and isinstance(value[item.key], list)):
                return found
    return invalid(prefix or "body", _shorten(str(failure)))


def _fault_in(item: _Item, *, as_list: bool) -> HttpError | None:
    lone = _new(item.field.containing_type)
    try:
        _merge({item.field.json_name: [item.value] if as_list else item.value}, lone)
    except json_format.ParseError as failure:
        if item.field.is_repeated and not as_list:
            return invalid(item.path, f"expected a list, got {_short(item.value)}")
        if item.field.message_type:
            return _explain(item.value, item.field.message_type, item.path, failure)
        return invalid(item.path, f"expected {_kind(item.field)}, got {_short(item.value)}")
    return None


def _new(message: Any) -> Message:
    created: Message = GetMessageClass(message)()
    return created


def _is_well_known(message: Descriptor) -> bool:
    """Whether the JSON of a message has a form of its own."""
    return message.file.package == "google.protobuf"


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


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice in an object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write it as a string")


def _short(value: Any) -> str:
    return _shorten(json.dumps(value, ensure_ascii=False))


def _shorten(text: str, limit: int = 100) -> str:
    text = _MANY_SPACES.sub(" ", text)
    return text if len(text) <= limit else f"{text[:limit]}..."
