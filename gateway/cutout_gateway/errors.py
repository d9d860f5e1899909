"""Errors as they are answered: an HTTP status and a google.rpc.Status as JSON."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import grpc
from cutout_common.status import DOMAIN, ErrorDetails, FieldViolation, pack, unpack
from google.protobuf import any_pb2, json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status

# As grpc-gateway's runtime.HTTPStatusFromCode has it; everything else is 500.
HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
CODES = {code.value[0]: code for code in grpc.StatusCode}
DETAILS_KEY = "grpc-status-details-bin"
RETRY_AFTER_S = 1.0
# https://grpc.github.io/grpc/core/md_doc_statuscodes.html: what the library says by itself, on either side.
_SAID_BY_GRPC = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
}


class HttpError(Exception):
    """A request that is answered with an error.

    Attributes:
        http_status: The HTTP status.
        status: The body.
        headers: Further headers of the answer.
    """

    def __init__(self, http_status: int, status: Status, headers: dict[str, str] | None = None) -> None:
        super().__init__(status.message)
        self.http_status = http_status
        self.status = status
        self.headers = dict(headers or {})
        retry_after_s = unpack(status).retry_after_s
        if retry_after_s is not None:
            self.headers["retry-after"] = str(math.ceil(retry_after_s))
        if http_status == 401:
            self.headers["www-authenticate"] = "Bearer"  # RFC 9110, section 15.5.2: a 401 must carry one


class ClientGoneError(Exception):
    """The client closed the connection before it had its answer."""


def error(
    http_status: int,
    code: grpc.StatusCode,
    message: str,
    *,
    reason: str,
    violations: Sequence[FieldViolation] = (),
    retry_after_s: float | None = None,
    headers: dict[str, str] | None = None,
) -> HttpError:
    """An error of the gateway's own, in the form of the server's."""
    details = ErrorDetails(reason, tuple(violations), retry_after_s)
    return HttpError(http_status, pack(code, message, details), headers)


def invalid(field: str, description: str, headers: dict[str, str] | None = None) -> HttpError:
    """400 that names the field, by its path in the contract's own names, and what was expected of it."""
    violations = [FieldViolation(field, description)]
    return error(
        400,
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{field}: {description}",
        reason="INVALID_ARGUMENT",
        violations=violations,
        headers=headers,
    )


def malformed(http_status: int, what: str) -> HttpError:
    """For bytes that are no HTTP, with the status that says so; the connection ends with it."""
    codes = {431: grpc.StatusCode.RESOURCE_EXHAUSTED, 501: grpc.StatusCode.UNIMPLEMENTED}
    code = codes.get(http_status, grpc.StatusCode.INVALID_ARGUMENT)
    message = f"expected a request in HTTP/1.1: {what}"
    return error(http_status, code, message, reason="MALFORMED_HTTP", headers={"connection": "close"})


def too_slow(what: str, seconds: float) -> HttpError:
    """408 for a request that does not come in time; the connection ends with it."""
    message = f"expected {what} of a request within {seconds:g} s"
    return error(
        408, grpc.StatusCode.DEADLINE_EXCEEDED, message, reason="REQUEST_TOO_SLOW", headers={"connection": "close"}
    )


def too_many_connections(whose: str, limit: int, retry_after_s: float) -> HttpError:
    """503 for one connection too many."""
    message = f"{whose} at most {limit} connections"
    return error(
        503,
        grpc.StatusCode.UNAVAILABLE,
        message,
        reason="TOO_MANY_CONNECTIONS",
        retry_after_s=retry_after_s,
        headers={"connection": "close"},
    )


def no_room(what: str, *, of_client: bool, retry_after_s: float) -> HttpError:
    """429 when bodies or answers in hand have all the memory that they may have."""
    message = f"{'your' if of_client else 'all'} {what} in hand have as many bytes as they may"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return error(429, code, message, reason="BYTES_IN_HAND", retry_after_s=retry_after_s)


def not_found(path: str) -> HttpError:
    """404 for a path that no rule has."""
    return error(404, grpc.StatusCode.NOT_FOUND, f"nothing is at {path}", reason="PATH_NOT_FOUND")


def method_not_allowed(path: str, allowed: Sequence[str]) -> HttpError:
    """405 with the methods that the path takes."""
    allow = ", ".join(allowed)
    message = f"{path} takes {allow}"
    code = grpc.StatusCode.UNIMPLEMENTED
    return error(405, code, message, reason="METHOD_NOT_ALLOWED", headers={"allow": allow})


def too_large(limit: int) -> HttpError:
    """413 for a body beyond a setting."""
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return error(413, code, f"the body may have at most {limit} bytes", reason="TOO_LARGE")


def unsupported(what: str) -> HttpError:
    """415 for a body in a form that nothing reads."""
    return error(415, grpc.StatusCode.INVALID_ARGUMENT, what, reason="UNSUPPORTED_MEDIA_TYPE")


def reader_lost() -> HttpError:
    """503 when the process that read a body was ended from outside, as a system short of memory does."""
    return _process_lost("read the body", reason="READER_LOST")


def writer_lost() -> HttpError:
    """503 when that was the process that wrote an answer."""
    return _process_lost("wrote the answer", reason="WRITER_LOST")


def _process_lost(did: str, *, reason: str) -> HttpError:
    message = f"the process that {did} was ended; try again, with less if it happens again"
    return error(503, grpc.StatusCode.UNAVAILABLE, message, reason=reason, retry_after_s=RETRY_AFTER_S)


def internal(request_id: str) -> HttpError:
    """500 that tells nothing but the id under which the log has the rest."""
    message = f"internal error of the gateway; request {request_id}"
    return error(500, grpc.StatusCode.INTERNAL, message, reason="INTERNAL")


def from_rpc(failure: grpc.aio.AioRpcError, late: str) -> HttpError:
    """The server's status with its details, or one in the same form when it sent none.

    Args:
        failure: How the call ended.
        late: What is said of a deadline that passed before the server answered.
    """
    code, said = failure.code(), failure.details() or ""
    status = _status_details(failure)
    if status is None:
        if code in _SAID_BY_GRPC and not failure.trailing_metadata():
            return _said_by_grpc(code, said, late)
        status = Status(code=code.value[0], message=said)
    return HttpError(_http_status(code, unpack(status)), status)


def _said_by_grpc(code: grpc.StatusCode, said: str, late: str) -> HttpError:
    if code is grpc.StatusCode.UNAVAILABLE:
        # The text has addresses.
        message = "the server cannot be reached"
        return error(503, code, message, reason="SERVER_UNREACHABLE", retry_after_s=RETRY_AFTER_S)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in said:
        return error(413, code, f"the server takes no such message: {said}", reason="TOO_LARGE")
    message = late if code is grpc.StatusCode.DEADLINE_EXCEEDED else said
    return error(HTTP_STATUS.get(code, 500), code, message, reason=code.name)


def _http_status(code: grpc.StatusCode, details: ErrorDetails) -> int:
    never_fits = code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.retry_after_s is None
    # Clients take 429 for an invitation to come back.
    return 413 if never_fits and details.reason else HTTP_STATUS.get(code, 500)


def status_json(status: Status, pool: DescriptorPool, request_id: str) -> dict[str, Any]:
    """The JSON of a status; of one of ours with the id under which the logs have the request.

    Details of types that `pool` lacks are given as `{"@type", "value": base64}`.
    """
    details, info = list(status.details), ErrorInfo()
    if any(detail.Unpack(info) and info.domain == DOMAIN for detail in details) and not unpack(status).request_id:
        details.append(any_pb2.Any())
        details[-1].Pack(RequestInfo(request_id=request_id))
    return {
        "code": status.code,
        "message": status.message,
        "details": [_detail_json(detail, pool) for detail in details],
    }


def _detail_json(detail: Any, pool: DescriptorPool) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json_format.MessageToDict(
            detail, always_print_fields_with_no_presence=True, descriptor_pool=pool
        )
    except (TypeError, DecodeError):
        return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}
    return found


def _status_details(failure: grpc.aio.AioRpcError) -> Status | None:
    for key, value in failure.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                status = Status.FromString(value if isinstance(value, bytes) else value.encode())
            except DecodeError:
                return None
            return status if status.code == failure.code().value[0] else None
    return None
