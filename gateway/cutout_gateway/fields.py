"""Fields named by a path of the contract's names, and set from text: from a URL, or from a form."""

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from cutout_gateway.errors import invalid
from cutout_gateway.json_fields import field_named
from cutout_gateway.protojson import parse_json

# Messages whose JSON form is one string, number or truth value (google.protobuf's own).
_WRAPPED = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_TEXTUAL = {
    f"google.protobuf.{name}" for name in (*(f"{t}Value" for t in _WRAPPED), "Timestamp", "Duration", "FieldMask")
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLS = {"true": True, "1": True, "false": False, "0": False}

FieldPath = tuple[FieldDescriptor, ...]


def resolve(message: Descriptor, path: str) -> FieldPath:
    """The fields that a path such as `options.max_objects` goes through; JSON names are accepted as well.

    Raises:
        LookupError: There is no such field; the text says where and what there is.
    """
    fields: list[FieldDescriptor] = []
    inside: Descriptor | None = message
    for name in path.split("."):
        if inside is None:
            raise LookupError(f"{dotted(fields)} has no parts")
        found = field_named(inside, name)
        if found is None:
            known = ", ".join(inside.fields_by_name) or "none"
            raise LookupError(f"{inside.full_name} has no field {name!r}; it has {known}")
        fields.append(found)
        inside = None if found.is_repeated else found.message_type
    return tuple(fields)


def dotted(fields: Sequence[FieldDescriptor]) -> str:
    """The path in the contract's own names."""
    return ".".join(field.name for field in fields)


def is_textual(field: FieldDescriptor) -> bool:
    """Whether one value of the field can be written as plain text."""
    return field.message_type is None or field.message_type.full_name in _TEXTUAL


def owner(message: Message, fields: FieldPath) -> Message:
    """The message inside `message` that has the last of `fields`.

    Raises:
        HttpError: On the way is a member of a oneof that already has another.
    """
    for i, field in enumerate(fields):
        oneof = field.containing_oneof
        present = message.WhichOneof(oneof.name) if oneof else None
        if present and present != field.name:
            raise invalid(dotted(fields[: i + 1]), f"excludes {present}, which is given as well")
        if i < len(fields) - 1:
            message = getattr(message, field.name)
    return message


def set_texts(message: Message, fields: FieldPath, texts: Sequence[str]) -> None:
    """Sets a field of `message` from the texts that a URL or a form gives for it.

    Raises:
        HttpError: 400 that names the field.
    """
    field, path = fields[-1], dotted(fields)
    if not is_textual(field):
        raise invalid(path, "is a message; give its fields by their paths, such as a.b=1")
    if len(texts) > 1 and not field.is_repeated:
        raise invalid(path, f"is given {len(texts)} times; it takes one value")
    values = [_value(field, path, text) for text in texts]
    set_json(message, fields, values if field.is_repeated else values[0])


def set_json(message: Message, fields: FieldPath, value: Any) -> None:
    """Sets a field of `message` from its JSON value.

    Raises:
        HttpError: 400 that names the field.
    """
    target = owner(message, fields)
    parse_json({fields[-1].json_name: value}, target, prefix=dotted(fields[:-1]))


def _value(field: FieldDescriptor, path: str, text: str) -> Any:
    """The JSON value that a text stands for; most kinds of field take the text itself."""
    scalar = field.message_type.fields_by_name.get("value") if field.message_type else field
    if scalar is None:
        return text
    if scalar.type == FieldDescriptor.TYPE_BOOL:
        if text not in _BOOLS:
            raise invalid(path, f"expected true or false, got {text!r}")
        return _BOOLS[text]
    is_real = scalar.cpp_type in {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
    # As a number, so that one beyond the field's range is refused; as a text it would become infinity.
    return float(text) if is_real and _NUMBER.fullmatch(text) else text
