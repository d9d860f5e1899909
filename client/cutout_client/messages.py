"""Messages made of what callers gave: a value that a field cannot hold is refused with its name and what it takes."""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Made = TypeVar("Made", bound=Message)

_AS_THEY_ARE: Mapping[str, str] = {}
_TEXT = frozenset({FieldDescriptor.TYPE_STRING})
_BOOL = frozenset({FieldDescriptor.TYPE_BOOL})
_NUMBERS = frozenset({FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE})
_COUNTS = frozenset({FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64})
_EXPECTED = {_TEXT: "text", _BOOL: "True or False", _NUMBERS: "a number", _COUNTS: "a whole number of at least 0"}


def build(kind: type[Made], called: Mapping[str, str] = _AS_THEY_ARE, **fields: Any) -> Made:
    """A message with these fields.

    Args:
        kind: Its type.
        called: What callers call fields that have other names here.
        fields: What it holds.

    Raises:
        TypeError: A value is of a type that its field does not take.
        ValueError: A number is out of its field's range.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            _check(kind, name, value, called.get(name, name))
        raise


def words(name: str, given: Any) -> list[str]:
    """One text, or many, as a list.

    Raises:
        TypeError: It is neither.
    """
    listed = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if isinstance(given, bytes) or not all(isinstance(each, str) for each in listed):
        raise TypeError(f"{name} must be text, or a list of texts such as ['cat', 'dog'], not {reprlib.repr(given)}")
    return listed


def of_type(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> None:
    """Refuses an argument of another type.

    Raises:
        TypeError: With its name and what was expected.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {expected}, not {reprlib.repr(value)}")


def _check(kind: type[Message], name: str, value: Any, called: str) -> None:
    try:
        kind(**{name: value})
    except (TypeError, ValueError) as error:
        field_type = kind.DESCRIPTOR.fields_by_name[name].type
        expected = next((said for types, said in _EXPECTED.items() if field_type in types), "a whole number")
        raise type(error)(f"{called} must be {expected}, not {reprlib.repr(value)}") from None
