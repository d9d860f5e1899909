"""What a call can fail with. Everything that the service answers is a CutoutError; each class stands for one cause.

CutoutError
├── InvalidRequestError      a field is wrong; `violations` lists every one
├── UnauthenticatedError     no API key, or an unknown one
├── PermissionDeniedError    the operator turned it off, or the key lacks the role
├── NotFoundError            no such image or model
├── FailedPreconditionError  it cannot work until something else changes
├── AbortedError             the work was overtaken by another
├── OverloadedError          full for the moment; try again after `retry_after_s`
├── TooLargeError            it can never fit into this server's limits
├── UnavailableError         no server there, or it is starting or draining
├── DeadlineError            time was up before the answer came
├── CallCancelledError       the call was cancelled
├── UnimplementedError       the server does not know this method: it is older, or something else
└── InternalError            everything else; tell the operator the request id

What is wrong before a call is made (a picture that is no picture, a box of three numbers) is a ValueError, TypeError or
OSError as everywhere in Python.
"""

import traceback
from dataclasses import replace
from pathlib import Path

import grpc
from cutout_common.status import ErrorDetails, FieldViolation, unpack
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

__all__ = ["CutoutError", "FieldViolation"]


class CutoutError(Exception):
    """Base of everything that the service answers instead of a result.

    Its text begins with what was wrong. Tracebacks show nothing below it; what gRPC raised is its `__context__`.

    Attributes:
        code: The gRPC code.
        message: For people.
        reason: UPPER_SNAKE, stable, for programs; empty when the failure did not come from the server.
        violations: Every violated field of the request.
        retry_after_s: Seconds after which a retry is worth it; None when it is not known or does not help.
        request_id: The id under which the server logged the call.
        omitted_violations: How many more fields are violated than `violations` lists: errors have a bounded size.
        help_url: Where the page about errors tells of the reason; empty when the server does not say.
        metadata: Further facts for programs; with the reason QUOTA_EXCEEDED `quota`, its `bound` and the `use` of it.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: ErrorDetails) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = details.reason
        self.violations = details.violations
        self.retry_after_s = details.retry_after_s
        self.request_id = details.request_id
        self.omitted_violations = details.omitted_violations
        self.metadata = dict(details.metadata)
        self.help_url = details.help_url

    def __str__(self) -> str:
        unsaid = [f"{v.field}: {v.description}" for v in self.violations if v.description not in self.message]
        origin = dict.fromkeys([self.code.name, self.reason, f"request {self.request_id}" if self.request_id else ""])
        return f"{'; '.join([self.message, *unsaid])} ({', '.join(filter(None, origin))})"

    def _render_traceback_(self) -> list[str]:
        """What IPython prints: each violation on its own line, then the caller's own lines, none of the client's."""
        text = str(self)
        if self.violations:
            origin = text[text.rindex(" (") + 1 :]
            text = "\n".join([origin, *(f"  {each.field}: {each.description}" for each in self.violations)])
            text += f"\n  and {self.omitted_violations} more" if self.omitted_violations else ""
        own = [
            frame
            for frame in traceback.extract_tb(self.__traceback__)
            if not any(part in Path(frame.filename).parts for part in ("cutout_client", "IPython"))
            and Path(frame.filename).name != "contextlib.py"
        ]
        return [f"{type(self).__name__}: {text}", "", *"".join(traceback.format_list(own)).splitlines()]

    def __reduce__(self) -> tuple[type["CutoutError"], tuple[grpc.StatusCode, str, ErrorDetails]]:
        # Exceptions are pickled by their `args`, which are the message alone.
        details = ErrorDetails(
            self.reason,
            self.violations,
            self.retry_after_s,
            self.request_id,
            self.omitted_violations,
            self.metadata,
            self.help_url,
        )
        return type(self), (self.code, self.message, details)


class InvalidRequestError(CutoutError):
    """A field is wrong; `violations` lists every one."""


class UnauthenticatedError(CutoutError):
    """No API key, or an unknown one."""


class PermissionDeniedError(CutoutError):
    """The operator turned it off, or the key lacks the role."""


class NotFoundError(CutoutError):
    """No such image or model."""


class FailedPreconditionError(CutoutError):
    """It cannot work until something else changes."""


class AbortedError(CutoutError):
    """The work was overtaken by another, such as the unloading of its model."""


class OverloadedError(CutoutError):
    """Full for the moment; try again after `retry_after_s`."""


class TooLargeError(CutoutError):
    """It can never fit into this server's limits."""


class UnavailableError(CutoutError):
    """No server there, or it is starting or draining."""


class DeadlineError(CutoutError):
    """Time was up before the answer came."""


class CallCancelledError(CutoutError):
    """The call was cancelled."""


class UnimplementedError(CutoutError):
    """The server does not know this method: it is older, or something else."""


class InternalError(CutoutError):
    """Everything else; tell the operator the request id."""


_CLASSES: dict[grpc.StatusCode, type[CutoutError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ALREADY_EXISTS: FailedPreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def make(code: grpc.StatusCode, message: str, details: ErrorDetails) -> CutoutError:
    """The error for a code. A full server says when to come back; a request that can never fit gets no such hint."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.retry_after_s is None:
        return TooLargeError(code, message, details)
    return _CLASSES[code](code, message, details)


def from_status(status: Status, request_id: str) -> CutoutError:
    """Reads a google.rpc.Status that came inside a message."""
    details = unpack(status)
    known = replace(details, request_id=details.request_id or request_id)
    return make(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, known)


def from_rpc(failure: grpc.RpcError, request_id: str) -> CutoutError:
    """Reads what grpc raised, with the details in its trailing metadata if there are any."""
    try:
        status = rpc_status.from_call(failure)
    except ValueError:  # a proxy changed the code or the message: believe what the call itself says
        status = None
    if status is not None:
        return from_status(status, request_id)
    call: grpc.Call = failure  # type: ignore[assignment]  # grpc raises the call itself
    said = call.details() or "the server gave no reason"
    return make(call.code(), _plainly(said), ErrorDetails(request_id=request_id))


def _plainly(said: str) -> str:
    """What this end's own gRPC says, in words that name what the caller can change."""
    if said == "Deadline Exceeded":
        return "no answer came within the call's own timeout_s"
    if "CLIENT: Received message larger than max" in said:
        return f"{said}: `stream` gets large answers in pieces, or raise grpc.max_receive_message_length"
    return said
