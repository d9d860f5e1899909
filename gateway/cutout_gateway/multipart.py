"""multipart/form-data for any route with a body: each part is a field, named by its path.

A part for a field of type bytes, or for a google.api.HttpBody, is taken as it is. A part for a message is JSON, and
several parts for a repeated field are its elements in their order. Every other part is text, as in a query. An empty
part is a field that was left blank, as HTML forms send it: it is not set.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from cutout_gateway.descriptors import HTTP_BODY
from cutout_gateway.errors import invalid
from cutout_gateway.fields import FieldPath, dotted, is_textual, owner, set_json, set_texts
from cutout_gateway.protojson import loads
from cutout_gateway.routes import Binding
from cutout_gateway.transcode import Payload, bind_url, group

MEDIA_TYPE = "multipart/form-data"
_MAX_PARTS = 10_000
_JSON_BODY = re.compile(rb"\s*[\[{]")


@dataclass
class Part:
    """One part of a form."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)

    @property
    def name(self) -> str:
        """The field that it is for."""
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        return options.get(b"name", b"").decode("utf-8", "replace")

    @property
    def content_type(self) -> str:
        """As the client says."""
        return self.headers.get(b"content-type", b"").decode("latin-1")

    def text(self, path: str) -> str:
        """What it says.

        Raises:
            HttpError: 400 that names the field when it is no text.
        """
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise invalid(path, "expected text in UTF-8") from None


def is_multipart(content_type: str) -> bool:
    """Whether a body is a form with parts."""
    return content_type.partition(";")[0].strip().lower() == MEDIA_TYPE


def parts_at_most(data: bytes) -> int:
    """A bound on the parts of a form: each but the first stands behind a line that may be a boundary."""
    return 1 + data.count(b"\r\n--")


def json_sections(data: bytes) -> Iterator[bytes]:
    """What lies between boundaries, found without reading the form; empty where it does not look like JSON."""
    for section in data.split(b"\r\n--"):
        start = section.find(b"\r\n\r\n") + 4
        yield section[start:] if _JSON_BODY.match(section, start) else b""


def build_from_form(
    binding: Binding, variables: dict[str, str], query: list[tuple[str, str]], payload: Payload
) -> Message:
    """Makes the request of an RPC from a form, then the query, then the path.

    Raises:
        HttpError: 400 that names the part and what was expected.
    """
    message: Message = GetMessageClass(binding.rpc.input)()
    named = group(binding, [(part.name, part) for part in parse_form(payload)])
    filled = {fields: parts for fields, all_parts in named.items() if (parts := [p for p in all_parts if p.data])}
    for fields, parts in filled.items():
        _set(message, fields, parts)
    bind_url(binding, message, variables, query, given=filled)
    return message


def _set(message: Message, fields: FieldPath, parts: list[Part]) -> None:
    last, path = fields[-1], dotted(fields)
    if len(parts) > 1 and not last.is_repeated:
        raise invalid(path, f"is given {len(parts)} times; it takes one value")
    if last.type == FieldDescriptor.TYPE_BYTES:
        target = owner(message, fields)
        values = [bytes(part.data) for part in parts]
        if last.is_repeated:
            getattr(target, last.name).extend(values)
        else:
            setattr(target, last.name, values[0])
    elif last.message_type and last.message_type.full_name == HTTP_BODY and not last.is_repeated:
        body = getattr(owner(message, fields), last.name)
        body.content_type, body.data = parts[0].content_type, bytes(parts[0].data)
    elif is_textual(last):
        set_texts(message, fields, [part.text(path) for part in parts])
    else:
        values_json = [loads(part.data, path) for part in parts]
        set_json(message, fields, values_json if last.is_repeated else values_json[0])


def parse_form(payload: Payload) -> list[Part]:
    """The parts of a form, in their order.

    Raises:
        HttpError: 400 when it is none, or has too many parts.
    """
    _, options = parse_options_header(payload.content_type)
    if not options.get(b"boundary"):
        raise invalid("Content-Type", f"{MEDIA_TYPE} needs its boundary")
    parts: list[Part] = []
    name, value = bytearray(), bytearray()
    ended = False

    def begin() -> None:
        if len(parts) == _MAX_PARTS:
            raise invalid("body", f"has more than {_MAX_PARTS} parts")
        parts.append(Part())

    def end_header() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": begin,
                "on_part_data": lambda data, start, stop: parts[-1].data.extend(memoryview(data)[start:stop]),
                "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
                "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
                "on_header_end": end_header,
                "on_end": end,
            },
        )
        parser.write(payload.data)
        parser.finalize()
    except FormParserError as error:
        raise invalid("body", f"is not {MEDIA_TYPE}: {error}") from error
    if not ended:
        raise invalid("body", f"is not {MEDIA_TYPE}: its last boundary is missing")
    return parts
