"""Which of several servers a request should go to, by the fields that the contract marks with `routed_by`."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from cutout_common import routing
from cutout_common.routing import ANYWHERE, Place
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

OPTION = "cutout.v1.routed_by"
STORED = "ROUTED_BY_STORED_PICTURE"

Path = tuple[FieldDescriptor, ...]


def place_of(message: Message) -> Place:
    """Where the first marked field that is there sends a message; anywhere when none is."""
    for path in _paths(message.DESCRIPTOR):
        value = _value(message, path)
        if not value:
            continue
        if isinstance(value, bytes):
            return routing.by_content(value)
        is_stored = _routed_by(path[-1]) == STORED
        return routing.by_id(value) if is_stored else routing.by_content(value.encode())
    return ANYWHERE


@cache
def _paths(descriptor: Descriptor) -> tuple[Path, ...]:
    return tuple(_below(descriptor, ()))


def _below(descriptor: Descriptor, above: Path) -> Iterator[Path]:
    """The ways to all marked fields that there is one of: those of repeated messages decide nothing."""
    for field in descriptor.fields:
        path = (*above, field)
        if _routed_by(field):
            yield path
        elif field.message_type and not field.is_repeated and field not in above:
            yield from _below(field.message_type, path)


def _routed_by(field: FieldDescriptor) -> str:
    """The value of the option; empty where it is not set, and in contracts that do not have it."""
    message: Any = field.containing_type
    pool: DescriptorPool = message.file.pool
    try:
        option: Any = pool.FindExtensionByName(OPTION)
    except KeyError:
        return ""
    # The field's own options are of Google's pool, which knows no option of the contract's.
    options: Any = GetMessageClass(option.containing_type).FromString(field.GetOptions().SerializeToString())
    return (
        str(option.enum_type.values_by_number[options.Extensions[option]].name) if options.HasExtension(option) else ""
    )


def _value(message: Message, path: Path) -> bytes | str:
    for field in path[:-1]:
        if not message.HasField(field.name):
            return b""
        message = getattr(message, field.name)
    value: Any = getattr(message, path[-1].name)
    found: bytes | str = value.data if path[-1].message_type else value  # google.api.HttpBody
    return found
