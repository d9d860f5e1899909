"""What hypothesis makes of a contract: messages with values at the edges, and JSON that nearly is one."""

import io
import os
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

# `make fuzz` asks for more.
FEW = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)


def _file(mode: str, size: tuple[int, int], file_format: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).convert(mode).save(content, file_format)
    return content.getvalue()


PICTURES = [
    _file("RGB", (24, 32), "PNG"),
    _file("L", (1, 1), "PNG"),
    _file("CMYK", (9, 40), "JPEG"),
    b"",
    b"\xff\xd8\xff",
]
WORDS = ["cat", "face", "", " . ", "red", "builtin", "nobody", "é" * 300, "\x00", "img_0"]
NUMBERS = [0.0, -0.0, 1.0, 0.5, -1.0, 31.0, 1e9, 3.4e38, 1e-45, float("nan"), float("inf"), float("-inf")]
_FEW = [0, 1, 2, 7, 300]
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8"), max_size=8),
    FieldDescriptor.CPPTYPE_FLOAT: st.sampled_from(NUMBERS),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from(NUMBERS),
    FieldDescriptor.CPPTYPE_INT32: st.sampled_from([*_FEW, -(2**31), 2**31 - 1]),
    FieldDescriptor.CPPTYPE_INT64: st.sampled_from([*_FEW, -(2**63), 2**63 - 1]),
    FieldDescriptor.CPPTYPE_UINT32: st.sampled_from([*_FEW, 2**32 - 1]),
    FieldDescriptor.CPPTYPE_UINT64: st.sampled_from([*_FEW, 2**64 - 1]),
}


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Messages of a type, with some of the fields that it has; deep inside fewer and fewer."""

    @st.composite
    def message(draw: st.DrawFn) -> Message:
        made = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if draw(st.integers(0, 2 + depth)) > 1 or depth > 4:
                continue
            if field.is_repeated:
                if field.message_type and field.message_type.GetOptions().map_entry:
                    continue
                values = draw(st.lists(_value(field, depth), max_size=3))
                if field.message_type:
                    for value in values:
                        getattr(made, field.name).add().CopyFrom(value)
                else:
                    getattr(made, field.name).extend(values)
            elif field.message_type:
                getattr(made, field.name).CopyFrom(draw(_value(field, depth)))
            else:
                setattr(made, field.name, draw(_value(field, depth)))
        return made

    return message()


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type:
        return messages(field.message_type, depth + 1)
    if field.enum_type:
        return st.sampled_from([*(value.number for value in field.enum_type.values), 99, -1])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from(PICTURES) | st.binary(max_size=40)
    return _SCALARS[field.cpp_type]


def json_values(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """JSON with the names of a message's fields, and of those inside it, in places where they may not belong."""
    names = sorted(
        {name for each in _types(descriptor) for field in each.fields for name in (field.name, field.json_name)}
    )
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(WORDS)
    scalars |= st.sampled_from(
        ["NaN", "-Infinity", "1e400", "AAAA", "A", "=", "MASK_FORMAT_RLE", "2020-01-01T00:00:00Z"]
    )
    keys = st.sampled_from([*names, "", "@type", "nope"])
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
    )


def _types(descriptor: Descriptor, known: frozenset[str] = frozenset()) -> list[Descriptor]:
    if descriptor.full_name in known:
        return []
    known |= {descriptor.full_name}
    inner = [each for field in descriptor.fields if field.message_type for each in _types(field.message_type, known)]
    return [descriptor, *inner]
