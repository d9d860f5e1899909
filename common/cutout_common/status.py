"""Errors as they cross the wire: one google.rpc.Status in the form of https://google.aip.dev/193.

Over gRPC a status travels in the trailing metadata, of which many clients take 8 KiB at most: of a longer one their
callers see nothing but RESOURCE_EXHAUSTED. So whatever a request holds, every status is bounded here, where it is made:
ErrorInfo and the first violations always arrive, and the status says how many violations it leaves out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from cutout_common.texts import escaped_bytes, shorten, utf8_bytes

DOMAIN = "cutout"
OMITTED = "omittedViolations"
"""ErrorInfo's metadata says under this key how many violations were left out."""

# On the wire the message is percent-encoded, and the status, which repeats it, is in base64. With names, request id and
# gRPC's own entries, each counted as 32 bytes more (RFC 9113, section 10.5.1), that is 7 KiB; the rest is for proxies.
MAX_MESSAGE_BYTES = 1024
MAX_VIOLATIONS_BYTES = 2560
MAX_FIELD_BYTES = 256
MAX_DESCRIPTION_BYTES = 768
MAX_NAME_BYTES = 128
MAX_PAGE_BYTES = 96
ERRORS_PAGE = "docs/errors.md"
"""The page that says what caused an error and what helps, in the project; each reason has its heading there."""
_FRAMING_BYTES = 8  # Of one violation in protobuf.
_ROUNDING_MS = 1e-6


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that cannot be accepted.

    Attributes:
        field: Path in the contract's own names, such as `boxes[2].x_max`.
        description: What was expected and what came.
    """

    field: str
    description: str


@dataclass(frozen=True)
class ErrorDetails:
    """What a status says beyond its code and message.

    Attributes:
        reason: UPPER_SNAKE, stable; empty when the status came from something that does not give one.
        violations: Every violated field.
        retry_after_s: Seconds to wait before the next try; None when a retry is not what helps.
        request_id: The id under which the server logged the call.
        omitted_violations: How many more fields are violated than `violations` lists.
        metadata: Further facts for programs, few and short.
        help_url: Where more is said about the reason. What is made here says it by itself: see `link_to`.
    """

    reason: str = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    request_id: str = ""
    omitted_violations: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    help_url: str = field(default="", compare=False)


_page = ERRORS_PAGE


def link_to(page: str) -> None:
    """Has the errors of this process lead to a page from now on, by its address or place; to none if that is empty."""
    global _page  # noqa: PLW0603 - as logging is set up once for a process
    _page = page


def summary(violations: Sequence[FieldViolation], omitted: int = 0) -> str:
    """What is wrong with a request: as many violations as a message has room for, and how many more there are."""
    parts: list[str] = []
    room = MAX_MESSAGE_BYTES - len("; and 1000000 more")
    for violation in violations:
        part = "{0.field}: {0.description}".format(_bounded(violation))
        room -= escaped_bytes(part) + len("; ")
        if parts and room < 0:
            break
        parts.append(part)
    more = len(violations) + omitted - len(parts)
    return "; ".join([*parts, *([f"and {more} more"] if more else [])])


def pack(code: grpc.StatusCode, message: str, details: ErrorDetails) -> Status:
    """Builds the status that carries `details` as ErrorInfo, BadRequest, RetryInfo, RequestInfo and Help, bounded."""
    violations = _first(details.violations)
    info = error_details_pb2.ErrorInfo(reason=shorten(details.reason, MAX_NAME_BYTES), domain=DOMAIN)
    for name, value in details.metadata.items():
        info.metadata[name] = shorten(value, MAX_NAME_BYTES)
    if omitted := details.omitted_violations + len(details.violations) - len(violations):
        info.metadata[OMITTED] = str(omitted)
    parts: list[Message] = [info]
    if violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in violations:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        parts.append(bad_request)
    if details.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(math.ceil(details.retry_after_s * 1000 - _ROUNDING_MS))  # Not before it is worth it.
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if details.request_id:
        parts.append(error_details_pb2.RequestInfo(request_id=shorten(details.request_id, MAX_NAME_BYTES)))
    if _page and details.reason:
        link = error_details_pb2.Help.Link(description="cause and cure", url=f"{_page}#{info.reason.lower()}")
        parts.append(error_details_pb2.Help(links=[link]))
    status = Status(code=code.value[0], message=shorten(message, MAX_MESSAGE_BYTES, escaped_bytes))
    for part in parts:
        status.details.add().Pack(part)
    return status


def unpack(status: Status) -> ErrorDetails:
    """Reads what `pack` wrote. Details of other types are passed over."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    more = error_details_pb2.Help()
    present = {_unpack_first(status.details, part) for part in (info, bad_request, retry, request, more)}
    return ErrorDetails(
        reason=info.reason,
        violations=tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations),
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000 if retry.DESCRIPTOR.full_name in present else None,
        request_id=request.request_id,
        omitted_violations=int(omitted) if (omitted := info.metadata.get(OMITTED, "")).isdecimal() else 0,
        metadata={name: value for name, value in info.metadata.items() if name != OMITTED},
        help_url=more.links[0].url if more.links else "",
    )


def _unpack_first(details: Sequence[Message], into: Message) -> str:
    for packed in details:
        if packed.Unpack(into):  # type: ignore[attr-defined]  # Any's own method
            return into.DESCRIPTOR.full_name
    return ""


def _first(violations: Sequence[FieldViolation]) -> list[FieldViolation]:
    """Those that there is room for."""
    kept: list[FieldViolation] = []
    room = MAX_VIOLATIONS_BYTES
    for violation in map(_bounded, violations):
        room -= utf8_bytes(violation.field) + utf8_bytes(violation.description) + _FRAMING_BYTES
        if room < 0:
            break
        kept.append(violation)
    return kept


def _bounded(violation: FieldViolation) -> FieldViolation:
    return FieldViolation(
        shorten(violation.field, MAX_FIELD_BYTES), shorten(violation.description, MAX_DESCRIPTION_BYTES)
    )
