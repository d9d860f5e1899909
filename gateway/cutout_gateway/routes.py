"""Which RPC a method and a path mean."""

from collections.abc import Iterable
from dataclasses import dataclass

from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cutout_gateway.descriptors import HTTP_BODY, Contract, ContractError, Rpc
from cutout_gateway.errors import HttpError, invalid, method_not_allowed, not_found
from cutout_gateway.fields import is_textual, resolve
from cutout_gateway.templates import EncodingError, Template, TemplateError, parse


@dataclass(frozen=True)
class Binding:
    """One HTTP rule of one RPC.

    Attributes:
        method: The HTTP method, or `*` for any.
        body: The field that the body is, None when the body is the whole request.
        takes_body: Whether there is a body at all.
        response_body: The field that answers, None when the whole message does.
        index: 0 for the main rule, counted on for the additional bindings.
    """

    rpc: Rpc
    method: str
    template: Template
    takes_body: bool
    body: FieldDescriptor | None
    response_body: FieldDescriptor | None
    index: int

    @property
    def body_message(self) -> Descriptor | None:
        """The message type that the body is; None for no body, and for a body that is a scalar or a list."""
        if not self.takes_body or (self.body and self.body.is_repeated):
            return None
        return self.body.message_type if self.body else self.rpc.input

    @property
    def raw_body(self) -> bool:
        """Whether the body is taken as it is, not as JSON."""
        return self.body_message is not None and self.body_message.full_name == HTTP_BODY

    @property
    def raw_response(self) -> bool:
        """Whether the answer is sent as it is, not as JSON."""
        field = self.response_body
        message = field.message_type if field and not field.is_repeated else None if field else self.rpc.output
        return message is not None and message.full_name == HTTP_BODY


class Routes:
    """Every binding of a contract, the more specific first."""

    def __init__(self, contract: Contract) -> None:
        """Checks every rule.

        Raises:
            ContractError: A rule is malformed, names a field that it must not, or means the same as another.
        """
        bindings = [_bind(rpc, rule, i) for rpc in contract.rpcs for i, rule in enumerate(rpc.rules)]
        self.bindings = sorted(bindings, key=lambda b: (not b.template.verb, b.template.rank))
        _refuse_twins(self.bindings)

    def match(self, method: str, path: str) -> tuple[Binding, dict[str, str]]:
        """Finds the binding of a request, and the text of its path's variables.

        Args:
            method: In upper case.
            path: As it came, still percent-encoded.

        Raises:
            HttpError: 404 for an unknown path, 405 for a known one with another method, 400 when it cannot be decoded.
        """
        matches: list[tuple[Binding, dict[str, str]]] = []
        for binding in self.bindings:
            if not binding.template.verb and matches and matches[0][0].template.verb:
                break  # ":load" at the end is the verb, not a part of the last segment
            try:
                variables = binding.template.match(path)
            except EncodingError as error:
                raise invalid("path", str(error)) from error
            if variables is not None:
                matches.append((binding, variables))
        # RFC 9110, section 9.3.2: HEAD is GET without the body.
        for each in (method, *(("GET",) if method == "HEAD" else ())):
            for binding, variables in matches:
                if binding.method in {each, "*"}:
                    return binding, variables
        raise _no_match(path, [binding for binding, _ in matches])


def _no_match(path: str, bindings: list[Binding]) -> HttpError:
    if not bindings:
        return not_found(path)
    allowed = {binding.method for binding in bindings}
    return method_not_allowed(path, sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))


def _bind(rpc: Rpc, rule: HttpRule, index: int) -> Binding:
    kind = rule.WhichOneof("pattern")
    method, text = (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind.upper(), getattr(rule, kind))
    try:
        template = parse(text)
        for variable in template.variables:
            field = resolve(rpc.input, variable.field_path)[-1]
            if field.is_repeated or not is_textual(field):
                raise ContractError(f"{rpc.full_name}: {variable.field_path} cannot be in a path")
    except (TemplateError, LookupError) as error:
        raise ContractError(f"{rpc.full_name}: {error}") from error
    body = None if rule.body in {"", "*"} else _field(rpc, rpc.input, rule.body)
    response_body = _field(rpc, rpc.output, rule.response_body) if rule.response_body else None
    binding = Binding(rpc, method, template, bool(rule.body), body, response_body, index)
    if rpc.client_streaming and not binding.raw_body:
        raise ContractError(f"{rpc.full_name}: the body of a client stream must be a {HTTP_BODY}")
    return binding


def _field(rpc: Rpc, message: Descriptor, name: str) -> FieldDescriptor:
    try:
        return message.fields_by_name[name]
    except KeyError:
        raise ContractError(f"{rpc.full_name}: {message.full_name} has no field {name!r}") from None


def _refuse_twins(bindings: Iterable[Binding]) -> None:
    seen: dict[tuple[str, tuple[str, ...], str], Binding] = {}
    for binding in bindings:
        key = (binding.method, binding.template.segments, binding.template.verb)
        twin = seen.setdefault(key, binding)
        if twin is not binding:
            raise ContractError(f"{binding.rpc.full_name} and {twin.rpc.full_name} have one route: {key}")
