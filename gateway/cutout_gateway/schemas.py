"""JSON Schemas (2020-12) of messages and enums, in the form of ProtoJSON, with the comments of the contracts."""

import base64
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from cutout_gateway.descriptors import Contract

Schema = dict[str, Any]

BYTES: Schema = {"type": "string", "contentEncoding": "base64"}
BINARY: Schema = {"type": "string", "format": "binary"}
_NUMBER: Schema = {"type": "number"}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0},
    # ProtoJSON writes 64-bit integers as strings, which JavaScript would round otherwise.
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"},
    FieldDescriptor.CPPTYPE_FLOAT: {**_NUMBER, "format": "float"},
    FieldDescriptor.CPPTYPE_DOUBLE: {**_NUMBER, "format": "double"},
}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?s$"},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Value": {},
}


class Schemas:
    """Makes schemas; those of messages and enums are collected as components and referred to.

    Attributes:
        components: Every message and enum that was asked for, and what those refer to, by full name.
    """

    def __init__(self, contract: Contract) -> None:
        self._comments = contract.comments
        # Unknown properties are refused in requests; answers may get new ones.
        self._requested: set[str] = set()
        for rpc in contract.rpcs:
            _collect(rpc.input, self._requested)
        self.components: dict[str, Schema] = {}

    def described(self, schema: Schema, full_name: str) -> Schema:
        """The schema with the comment of what it is for."""
        comment = self._comments.get(full_name)
        return {**schema, "description": comment} if comment else schema

    def message(self, message: Descriptor) -> Schema:
        """A message: a reference, or the form of its own that ProtoJSON gives it."""
        if message.file.package == "google.protobuf":
            if message.full_name in _WELL_KNOWN:
                return _WELL_KNOWN[message.full_name]
            return self._value(message.fields_by_name["value"])  # the wrappers
        if message.full_name not in self.components:
            self.components[message.full_name] = {}  # entered first: messages may hold themselves
            self.components[message.full_name] = self.object(message)
        return {"$ref": f"#/components/schemas/{message.full_name}"}

    def object(self, message: Descriptor, without: frozenset[str] = frozenset()) -> Schema:
        """A message written out.

        Args:
            message: Which one.
            without: Fields that come from elsewhere.
        """
        fields = [field for field in message.fields if field.name not in without]
        schema: Schema = {"type": "object", "properties": {field.json_name: self.field(field) for field in fields}}
        if message.full_name in self._requested:
            schema["additionalProperties"] = False
        if required := [field.json_name for field in fields if is_required(field)]:
            schema["required"] = required
        groups = [
            [field.json_name for field in oneof.fields if field.name not in without]
            for oneof in message.oneofs
            if len(oneof.fields) > 1  # a field that is `optional` is a oneof by itself
        ]
        if groups:
            schema["allOf"] = [_at_most_one(names) for names in groups if names]
        return self.described(schema, message.full_name)

    def field(self, field: FieldDescriptor) -> Schema:
        """A field with its comment and whether it only comes or only goes."""
        schema = self.described(self._any_number(field), field.full_name)
        behaviours = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
        if field_behavior_pb2.OUTPUT_ONLY in behaviours:
            schema = {**schema, "readOnly": True}
        if field_behavior_pb2.INPUT_ONLY in behaviours:
            schema = {**schema, "writeOnly": True}
        return schema

    def _any_number(self, field: FieldDescriptor) -> Schema:
        if field.message_type and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._value(value)}
        if field.is_repeated:
            return {"type": "array", "items": self._value(field)}
        return self._value(field)

    def _value(self, field: FieldDescriptor) -> Schema:
        if field.message_type:
            return self.message(field.message_type)
        if field.enum_type:
            return self._enum(field.enum_type)
        return BYTES if field.type == FieldDescriptor.TYPE_BYTES else _SCALARS[field.cpp_type]

    def _enum(self, enum: EnumDescriptor) -> Schema:
        if enum.full_name not in self.components:
            values = [
                f"- `{value.name}`: {comment}"
                for value in enum.values
                if (comment := self._comments.get(f"{enum.full_name}.{value.name}"))
            ]
            texts = [text for text in (self._comments.get(enum.full_name), "\n".join(values)) if text]
            schema: Schema = {"type": "string", "enum": [value.name for value in enum.values]}
            self.components[enum.full_name] = {**schema, "description": "\n\n".join(texts)} if texts else schema
        return {"$ref": f"#/components/schemas/{enum.full_name}"}


def _collect(message: Descriptor, names: set[str]) -> None:
    """Adds the names of a message and of all that can be inside it."""
    if message.full_name not in names:
        names.add(message.full_name)
        for field in message.fields:
            if field.message_type:
                _collect(field.message_type, names)


def is_required(field: FieldDescriptor) -> bool:
    """Whether the contract says so by google.api.field_behavior."""
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def example(message: Descriptor, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A small request: the required fields, and the first member of each oneof.

    Made by hand because tools make an example of every field, which a oneof refuses.
    """
    return {
        field.json_name: example_value(field)
        for field in message.fields
        if field.name not in without and in_example(field)
    }


def in_example(field: FieldDescriptor) -> bool:
    """Whether a small request has the field: it is required, or the first member of a oneof."""
    oneof = field.containing_oneof
    return is_required(field) or (oneof is not None and len(oneof.fields) > 1 and oneof.fields[0] == field)


def example_value(field: FieldDescriptor) -> Any:
    """A value that can be read back."""
    return [_one_example(field)] if field.is_repeated else _one_example(field)


def _one_example(field: FieldDescriptor) -> Any:
    if field.message_type:
        return example(field.message_type)
    if field.enum_type:
        return field.enum_type.values[0].name
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return (
            base64.b64encode(field.name.encode()).decode() if field.type == FieldDescriptor.TYPE_BYTES else field.name
        )
    return False if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else 1


def _at_most_one(names: list[str]) -> Schema:
    given: list[Schema] = [{"required": [name]} for name in names]
    return {"oneOf": [*given, {"not": {"anyOf": given}}]}
