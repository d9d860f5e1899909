"""JSON and the descriptors that it is written for, side by side."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor


class Item(NamedTuple):
    """One value in a JSON object, with its field and its path in the contract's own names."""

    key: str
    field: FieldDescriptor
    value: Any
    path: str


def field_named(message: Descriptor, name: str) -> FieldDescriptor | None:
    """The field with this name, either its own or its JSON one."""
    by_json_name = (field for field in message.fields if field.json_name == name)
    return message.fields_by_name.get(name) or next(by_json_name, None)


def fields_of(value: Any, message: Descriptor, prefix: str) -> Iterator[Item]:
    """The known fields of a JSON object that stands for `message`, which itself is at the path `prefix`."""
    if isinstance(value, dict) and not is_well_known(message):
        for key, item in value.items():
            if field := field_named(message, key):
                yield Item(key, field, item, f"{prefix}.{field.name}" if prefix else field.name)


def items_of(value: Any, message: Descriptor, prefix: str) -> Iterator[Item]:
    """The values of a JSON object, those of its lists and maps one by one; without what has not their shape."""
    for key, field, item, path in fields_of(value, message, prefix):
        if isinstance(item, dict) and (inner := map_value(field)):
            yield from (Item(key, inner, entry, f"{path}[{name!r}]") for name, entry in item.items())
        elif isinstance(item, list) and field.is_repeated:
            yield from (Item(key, field, entry, f"{path}[{i}]") for i, entry in enumerate(item))
        else:
            yield Item(key, field, item, path)


def map_value(field: FieldDescriptor) -> FieldDescriptor | None:
    """The field of a map's values; None for what is not a map."""
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return field.message_type.fields_by_name["value"] if field.message_type and is_map else None


def is_well_known(message: Descriptor) -> bool:
    """Whether the JSON of a message has a form of its own."""
    return message.file.package == "google.protobuf"
