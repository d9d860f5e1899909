"""Errors as they cross the wire: one google.rpc.Status in the form of https://google.aip.dev/193."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

DOMAIN = "cutout"


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
    """

    reason: str = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    request_id: str = ""


def pack(code: grpc.StatusCode, message: str, details: ErrorDetails) -> Status:
    """Builds the status that carries `details` as ErrorInfo, BadRequest, RetryInfo and RequestInfo."""
    parts: list[Message] = [error_details_pb2.ErrorInfo(reason=details.reason, domain=DOMAIN)]
    if details.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in details.violations:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        parts.append(bad_request)
    if details.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(details.retry_after_s * 1000))
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if details.request_id:
        parts.append(error_details_pb2.RequestInfo(request_id=details.request_id))
    status = Status(code=code.value[0], message=message)
    for part in parts:
        status.details.add().Pack(part)
    return status


def unpack(status: Status) -> ErrorDetails:
    """Reads what `pack` wrote. Details of other types are passed over."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    present = {_unpack_first(status.details, part) for part in (info, bad_request, retry, request)}
    return ErrorDetails(
        reason=info.reason,
        violations=tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations),
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000 if retry.DESCRIPTOR.full_name in present else None,
        request_id=request.request_id,
    )


def _unpack_first(details: Sequence[Message], into: Message) -> str:
    for packed in details:
        if packed.Unpack(into):  # type: ignore[attr-defined]  # Any's own method
            return into.DESCRIPTOR.full_name
    return ""
