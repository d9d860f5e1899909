"""The OpenAPI 3.1 document, made from the descriptors and their comments."""

import re
from collections.abc import Iterator
from typing import Any

import cutout_common
from cutout_common import request_ids
from cutout_common.formats import CONTENT_TYPES
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cutout_gateway.descriptors import HTTP_BODY, Contract
from cutout_gateway.errors import HTTP_STATUS
from cutout_gateway.fields import FieldPath, dotted, is_textual, resolve
from cutout_gateway.multipart import MEDIA_TYPE
from cutout_gateway.routes import Binding, Routes
from cutout_gateway.schemas import BINARY, Schema, Schemas, example, example_value, in_example, is_required
from cutout_gateway.templates import Variable
from cutout_gateway.transcode import JSON, NDJSON, OCTETS

# Types of raw bodies, both ways: bytes of whatever kind, and the pictures that go in and come back.
RAW_TYPES = (OCTETS, *CONTENT_TYPES.values())
# OpenAPI has no other methods; rules for those are served, but cannot be described.
_METHODS = {"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"}
_HEADERS = {
    request_ids.HEADER: {"schema": {"type": "string"}, "description": "The request's id, as in the server's log."}
}
# Of every operation: openapi-python-client makes modules that cannot be imported of those that have several kinds of
# bodies and no parameter that may be left out.
_REQUEST_ID = {
    "name": request_ids.HEADER,
    "in": "header",
    "schema": {"type": "string", "pattern": f"^{request_ids.PATTERN}$"},
    "description": "An id to find the request by in every log. Default: a new one.",
}
_RETRY_AFTER = {
    "retry-after": {"schema": {"type": "integer"}, "description": "Seconds after which a retry is worth it."}
}
# What is refused, by the HTTP status; see docs/rest.md.
_REFUSED = {
    400: "A field is unknown, given twice, or not as it has to be; `details` name it and what was expected.",
    401: "There is no key, or an unknown one.",
    403: "The operator does not allow it, or the key lacks the role.",
    404: "There is no such picture or model.",
    408: "The body came too slowly.",
    409: "It is being done already.",
    413: "The body, or what it asks for, can never fit.",
    415: "The body is compressed.",
    429: "The server, or the caller's share of it, is full for the moment.",
    501: "The server does not have this method.",
    503: "The server starts, stops, cannot be reached, or cannot keep pictures for the moment.",
    504: "Time was up.",
}
_OF_BODIES = {408, 413, 415}
_WORTH_A_RETRY = {429, 503}
_ABOUT = """REST over the gRPC services, made from their contracts.

Errors are a `google.rpc.Status` in JSON. Every answer has the header `x-request-id`: the caller's own when it sent one.
`Grpc-Timeout` (`1500m` is 1.5 seconds) sets a deadline; `Grpc-Metadata-*` is passed on as metadata.
Fields may be written in lowerCamelCase or as in the contract. Fields that were not set are written with their default
unless the contract marks them as optional."""


def document(contract: Contract, routes: Routes, title: str) -> dict[str, Any]:
    """Makes the document.

    Args:
        contract: For the comments and the types.
        routes: What to describe.
        title: Name of the API.

    Returns:
        The document, ready to be written as JSON.
    """
    schemas = Schemas(contract)
    paths: dict[str, dict[str, Any]] = {}
    for binding in routes.bindings:
        if binding.method in _METHODS:
            path = _openapi_path(binding)
            paths.setdefault(path, {})[binding.method.lower()] = _Operation(binding, schemas, contract).describe()
    error = schemas.message(contract.pool.FindMessageTypeByName("google.rpc.Status"))
    services = dict.fromkeys(rpc.service for rpc in contract.rpcs)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": cutout_common.__version__, "description": _ABOUT},
        "security": [{}, {"ApiKey": []}, {"Bearer": []}],
        "tags": [schemas.described({"name": name.rpartition(".")[2]}, name) for name in services],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {
                "Error": _error_response(error),
                **{str(status): _refusal(status, text, error) for status, text in _REFUSED.items()},
            },
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


class _Operation:
    """Describes one binding."""

    def __init__(self, binding: Binding, schemas: Schemas, contract: Contract) -> None:
        self._binding = binding
        self._schemas = schemas
        self._contract = contract
        self._in_path = [resolve(binding.rpc.input, v.field_path) for v in binding.template.variables]

    def describe(self) -> dict[str, Any]:
        rpc = self._binding.rpc
        service = rpc.service.rpartition(".")[2]
        suffix = f"_{self._binding.index}" if self._binding.index else ""
        described: dict[str, Any] = {"operationId": f"{service}_{rpc.name}{suffix}", "tags": [service]}
        if comment := self._contract.comments.get(rpc.full_name):
            described |= {"summary": comment.partition(".")[0].replace("\n", " "), "description": comment}
        described["parameters"] = [*self._path_parameters(), *self._query_parameters(), _REQUEST_ID]
        if self._binding.takes_body:
            described["requestBody"] = self._request_body()
        refused = [status for status in _REFUSED if self._binding.takes_body or status not in _OF_BODIES]
        described["responses"] = {
            "200": self._response(),
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in refused},
            "default": {"$ref": "#/components/responses/Error"},
        }
        return described

    def _path_parameters(self) -> Iterator[dict[str, Any]]:
        for variable, fields in zip(self._binding.template.variables, self._in_path, strict=True):
            parameter = self._parameter(variable.field_path, "path", fields, required=True)
            if variable.multi:
                parameter["schema"]["pattern"] = _pattern(self._binding, variable)
            yield parameter

    def _query_parameters(self) -> Iterator[dict[str, Any]]:
        binding = self._binding
        if binding.takes_body and binding.body is None:
            return
        for fields in _leaves(binding.rpc.input):
            if fields[0] != binding.body and fields not in self._in_path and is_textual(fields[-1]):
                name = ".".join(field.json_name for field in fields)
                yield self._parameter(name, "query", fields, required=all(map(is_required, fields)))

    def _parameter(self, name: str, where: str, fields: FieldPath, *, required: bool) -> dict[str, Any]:
        schema = dict(self._schemas.field(fields[-1]))
        schema.pop("description", None)
        parameter = {"name": name, "in": where, "required": required, "schema": schema}
        return self._schemas.described(parameter, fields[-1].full_name)

    def _request_body(self) -> dict[str, Any]:
        binding = self._binding
        bound = self._bound()
        content = _raw_content() if binding.raw_body else {JSON: self._json_body(bound)}
        if any(_is_blob(fields[-1]) for fields in _leaves(binding.rpc.input)):
            content[MEDIA_TYPE] = self._form()
        if binding.body is None:
            in_body = [field for field in binding.rpc.input.fields if field.name not in bound]
            return {"content": content, "required": any(map(is_required, in_body))}
        body = {"content": content, "required": is_required(binding.body)}
        return self._schemas.described(body, binding.body.full_name)

    def _bound(self) -> frozenset[str]:
        """Names of the fields that the path gives whole."""
        return frozenset(fields[0].name for fields in self._in_path if len(fields) == 1)

    def _json_body(self, bound: frozenset[str]) -> dict[str, Any]:
        binding = self._binding
        if binding.body:
            return {"schema": self._schemas.field(binding.body)}
        message = binding.rpc.input
        schema = self._schemas.object(message, bound) if bound else self._schemas.message(message)
        return {"schema": schema, "example": example(message, bound)}

    def _form(self) -> dict[str, Any]:
        in_form = [
            fields
            for fields in _leaves(self._binding.rpc.input)
            if fields not in self._in_path and self._binding.body in {None, fields[0]}
        ]
        properties: dict[str, Schema] = {}
        for fields in in_form:
            last = fields[-1]
            blob = self._schemas.described(BINARY, last.full_name)
            schema = dict(blob if _is_blob(last) else self._schemas.field(last))
            # Tools put a sample into every field of a form, unless the schema has one; an empty one is not sent.
            filled = all(map(in_example, fields)) and not _is_blob(last)
            schema["example"] = example_value(last) if filled else [] if last.is_repeated else ""
            properties[dotted(fields)] = schema
        closed = {"type": "object", "properties": properties, "additionalProperties": False}
        # A message may come as one part of JSON instead of a part for each of its fields.
        messages = {dotted(fields[: i + 1]) for fields in in_form for i in range(len(fields) - 1)}
        whole = {f"^{re.escape(name)}$": {"type": "string"} for name in sorted(messages)}
        form: dict[str, Any] = {"schema": closed | ({"patternProperties": whole} if whole else {})}
        # Tools would join a list by commas into one part.
        if lists := [fields for fields in in_form if fields[-1].is_repeated]:
            form["encoding"] = {dotted(fields): {"style": "form", "explode": True} for fields in lists}
        return form

    def _response(self) -> dict[str, Any]:
        binding = self._binding
        if binding.raw_response:
            return {"description": "The bytes as they are.", "headers": _HEADERS, "content": _raw_content()}
        field = binding.response_body
        result = self._schemas.field(field) if field else self._schemas.message(binding.rpc.output)
        if not binding.rpc.server_streaming:
            return {"description": "The answer.", "headers": _HEADERS, "content": {JSON: {"schema": result}}}
        error = self._schemas.message(self._contract.pool.FindMessageTypeByName("google.rpc.Status"))
        line = {"oneOf": [_lone("result", result), _lone("error", error)]}
        text = "One JSON object a line: a result, or as the last one the error that ended the stream."
        return {"description": text, "headers": _HEADERS, "content": {NDJSON: {"schema": line}}}


def _openapi_path(binding: Binding) -> str:
    template = binding.template
    parts = [*template.segments]
    for variable in reversed(template.variables):
        parts[variable.start : variable.end] = [f"{{{variable.field_path}}}"]
    return "/" + "/".join(parts) + (f":{template.verb}" if template.verb else "")


def _pattern(binding: Binding, variable: Variable) -> str:
    segments = binding.template.segments[variable.start : variable.end]
    return "^" + "/".join({"*": "[^/]+", "**": ".*"}.get(segment, segment) for segment in segments) + "$"


def _leaves(message: Descriptor, above: FieldPath = ()) -> Iterator[FieldPath]:
    """Every field that a query or a form can name; a message inside itself is not entered again."""
    for field in message.fields:
        fields = (*above, field)
        inner = field.message_type
        if inner is None or field.is_repeated or is_textual(field) or inner.full_name == HTTP_BODY:
            yield fields
        elif inner.file.package != "google.protobuf" and all(inner is not f.containing_type for f in fields):
            yield from _leaves(inner, fields)


def _is_blob(field: FieldDescriptor) -> bool:
    is_body = field.message_type is not None and field.message_type.full_name == HTTP_BODY
    return not field.is_repeated and (is_body or field.type == FieldDescriptor.TYPE_BYTES)


def _raw_content() -> dict[str, Any]:
    return {media_type: {"schema": BINARY} for media_type in RAW_TYPES}


def _lone(name: str, schema: Schema) -> Schema:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


def _error_response(schema: Schema) -> dict[str, Any]:
    table = ", ".join(f"{status} {code.name}" for code, status in HTTP_STATUS.items() if status != 200)
    text = f"The request failed: {table}; 405 for a wrong method, 413 for too large a body, 500 for everything else."
    return {"description": text, "headers": _HEADERS | _RETRY_AFTER, "content": {JSON: {"schema": schema}}}


def _refusal(status: int, text: str, schema: Schema) -> dict[str, Any]:
    headers = _HEADERS | (_RETRY_AFTER if status in _WORTH_A_RETRY else {})
    return {"description": text, "headers": headers, "content": {JSON: {"schema": schema}}}
