"""HTTP request -> message, message -> HTTP body."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from cutout_gateway.errors import invalid, status_json
from cutout_gateway.fields import FieldPath, dotted, resolve, set_json, set_texts
from cutout_gateway.protojson import loads, parse_json
from cutout_gateway.routes import Binding
from cutout_gateway.templates import EncodingError, decode

JSON = "application/json"
NDJSON = "application/x-ndjson"
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Payload:
    """A body that was read whole."""

    data: bytes
    content_type: str


def parse_query(query: str) -> list[tuple[str, str]]:
    """Names and values of a query string, in their order.

    Raises:
        HttpError: 400 for a malformed escape.
    """
    try:
        pairs = [part.replace("+", " ").partition("=") for part in query.split("&") if part]
        return [(decode(name), decode(value)) for name, _, value in pairs]
    except EncodingError as error:
        raise invalid("query", str(error)) from error


def build(binding: Binding, variables: dict[str, str], query: list[tuple[str, str]], payload: Payload) -> Message:
    """Makes the request of an RPC: from the body, then the query, then the path.

    Raises:
        HttpError: 400 that names the field and what was expected.
    """
    message: Message = GetMessageClass(binding.rpc.input)()
    if not binding.takes_body and payload.data:
        raise invalid("body", "this route takes none")
    if binding.raw_body:
        set_raw(binding, message, payload)
    elif payload.data:
        value = loads(payload.data)
        if binding.body:
            set_json(message, (binding.body,), value)
        else:
            parse_json(value, message)
    bind_url(binding, message, variables, query)
    return message


def bind_url(
    binding: Binding,
    message: Message,
    variables: dict[str, str],
    query: list[tuple[str, str]],
    *,
    given: Collection[FieldPath] = (),
) -> None:
    """Sets the fields that the path and the query give.

    Args:
        binding: What they mean.
        message: The request to fill.
        variables: Text of each variable of the path.
        query: Names and values of the query string.
        given: Fields that the body set; the query must not set them again.

    Raises:
        HttpError: 400 that names the field and what was expected.
    """
    taken = [resolve(binding.rpc.input, path) for path in variables]
    for fields, texts in group(binding, query).items():
        in_body = binding.takes_body and binding.body in {None, fields[0]}
        if in_body or fields in taken:
            raise invalid(dotted(fields), "is not a query parameter here; it comes in the path or the body")
        if fields in given:
            raise invalid(dotted(fields), "is given in the query and in the body")
        set_texts(message, fields, texts)
    for fields, text in zip(taken, variables.values(), strict=True):
        _bind_variable(message, fields, text)


def group(binding: Binding, pairs: list[tuple[str, Any]]) -> dict[FieldPath, list[Any]]:
    """The values for each field, however its name was spelt, in their order.

    Raises:
        HttpError: 400 that names an unknown field.
    """
    grouped: dict[FieldPath, list[Any]] = {}
    for name, value in pairs:
        try:
            fields = resolve(binding.rpc.input, name)
        except LookupError as error:
            raise invalid(name, f"is unknown: {error}") from error
        grouped.setdefault(fields, []).append(value)
    return grouped


def set_raw(binding: Binding, message: Message, payload: Payload) -> None:
    """Puts a body, as it is, into the HttpBody that the binding names. No body leaves it unset."""
    if payload.data or payload.content_type:
        target: Any = getattr(message, binding.body.name) if binding.body else message
        target.content_type = payload.content_type
        target.data = payload.data


def split_raw(binding: Binding, message: Message, size: int) -> Iterator[Message]:
    """Cuts the HttpBody in a request into pieces of at most `size` bytes; the first keeps all other fields."""
    raw: Any = getattr(message, binding.body.name) if binding.body else message
    data = raw.data
    raw.data = data[:size]
    yield message
    for start in range(size, len(data), size):
        piece: Message = GetMessageClass(binding.rpc.input)()
        set_raw(binding, piece, Payload(data[start : start + size], ""))
        yield piece


def render(binding: Binding, message: Message, pool: DescriptorPool) -> Payload:
    """The body that answers: JSON, or the bytes of an HttpBody."""
    field = binding.response_body
    if not binding.raw_response:
        return Payload(dumps(to_json(field, message, pool)), JSON)
    raw: Any = getattr(message, field.name) if field else message
    return Payload(raw.data, raw.content_type or OCTETS)


def to_json(field: FieldDescriptor | None, message: Message, pool: DescriptorPool) -> Any:
    """The JSON value of a message, or of one field of it. Fields that have no presence are always written."""
    if field and field.message_type and not field.is_repeated:
        return to_json(None, getattr(message, field.name), pool)
    value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True, descriptor_pool=pool)
    return value.get(field.json_name) if field else value


def piece(binding: Binding, message: Message, pool: DescriptorPool) -> bytes:
    """A message of a stream: the bytes of an HttpBody, or a line."""
    if binding.raw_response:
        return render(binding, message, pool).data
    return dumps({"result": to_json(binding.response_body, message, pool)}) + b"\n"


def error_line(status: Status, pool: DescriptorPool, request_id: str) -> bytes:
    """The last line of a stream that failed."""
    return dumps({"error": status_json(status, pool, request_id)}) + b"\n"


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _bind_variable(message: Message, fields: FieldPath, text: str) -> None:
    in_body = _text_of(message, fields)
    set_texts(message, fields, [text])
    if in_body is not None and in_body != _text_of(message, fields):
        raise invalid(dotted(fields), f"is {in_body!r} in the body and {quote(text)!r} in the path")


def _text_of(message: Message, fields: FieldPath) -> str | None:
    """The value of a field, None when it has its default."""
    for field in fields[:-1]:
        message = getattr(message, field.name)
    value = getattr(message, fields[-1].name)
    return None if value == _default(fields[-1]) else str(value)


def _default(field: FieldDescriptor) -> Any:
    return GetMessageClass(field.message_type)() if field.message_type else field.default_value
