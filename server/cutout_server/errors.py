"""The error tree. Each class carries the code that it has on the wire; handlers never choose one.

CutoutError
├── InvalidRequestError      INVALID_ARGUMENT     a field is wrong whatever the server's state
├── MalformedMessageError    INVALID_ARGUMENT     bytes that are no message of the method
├── UnauthenticatedError     UNAUTHENTICATED      no key, or an unknown one
├── PermissionDeniedError    PERMISSION_DENIED    the operator turned it off, or the key lacks the role
├── NotFoundError            NOT_FOUND            no such image or model
├── FailedPreconditionError  FAILED_PRECONDITION  it cannot work until something else changes
├── OverloadedError          RESOURCE_EXHAUSTED   full; try again after `retry_after_s`
├── QuotaError               RESOURCE_EXHAUSTED   the caller has had its share; try again after `retry_after_s`, if ever
├── TooLargeError            RESOURCE_EXHAUSTED   it can never fit; a retry does not help
│   └── AnswerTooLargeError                       an answer that does not fit into one message; a stream of several does
├── UnavailableError         UNAVAILABLE          starting or draining; try again after `retry_after_s`
├── DeadlineError            DEADLINE_EXCEEDED    time was up before the work was done
├── UnimplementedError       UNIMPLEMENTED        there is no such method
└── InternalError            INTERNAL             everything that nobody foresaw; says nothing but the request id
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import grpc
from cutout_common.status import ErrorDetails, FieldViolation, pack, summary
from google.rpc.status_pb2 import Status


class CutoutError(Exception):
    """Base of everything that callers are told.

    Attributes:
        code: The gRPC code.
        reason: UPPER_SNAKE, stable, for programs.
        message: For people; never the text of an exception that we did not raise.
        violations: Violated fields, the first of them if there are very many.
        omitted_violations: How many more there are.
        retry_after_s: Seconds after which a retry is worth it; None when it is not.
        metadata: Further facts for programs, by names in lowerCamelCase.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.retry_after_s = retry_after_s
        self.violations: tuple[FieldViolation, ...] = ()
        self.omitted_violations = 0
        self.metadata: dict[str, str] = {}

    def __reduce__(self) -> tuple[Callable[..., "CutoutError"], tuple[Any, ...]]:
        """From one process to another it goes as it is, whatever its class is made from."""
        return _as_it_was, (type(self), self.args, vars(self))


class InvalidRequestError(CutoutError):
    """Lists every violated field, and counts those of `omitted` beside."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_ARGUMENT"

    def __init__(self, *violations: FieldViolation, reason: str = "", omitted: int = 0) -> None:
        super().__init__(summary(violations, omitted), reason=reason)
        self.violations = violations
        self.omitted_violations = omitted

    @classmethod
    def of(cls, field: str, description: str, *, reason: str = "") -> "InvalidRequestError":
        """The common case of one field."""
        return cls(FieldViolation(field, description), reason=reason)

    def renamed(self, name: Callable[[str], str]) -> "InvalidRequestError":
        """The same with other names of its fields."""
        named = (FieldViolation(name(v.field), v.description) for v in self.violations)
        return InvalidRequestError(*named, reason=self.reason, omitted=self.omitted_violations)


class MalformedMessageError(CutoutError):
    """Bytes that are no message of the method, or no message at all where it takes one."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "MALFORMED_MESSAGE"


class UnauthenticatedError(CutoutError):
    """No key, or an unknown one."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "API_KEY_INVALID"


class PermissionDeniedError(CutoutError):
    """The operator turned it off, or the key lacks the role."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "DISABLED_BY_OPERATOR"


class NotFoundError(CutoutError):
    """No such image or model."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class FailedPreconditionError(CutoutError):
    """It cannot work until something else changes."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"


class OverloadedError(CutoutError):
    """Full for the moment."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "QUEUE_FULL"

    def __init__(self, message: str, *, retry_after_s: float, reason: str = "") -> None:
        super().__init__(message, reason=reason, retry_after_s=retry_after_s)


class QuotaError(CutoutError):
    """The caller has used up what it may use.

    Args:
        quota: Name of the setting.
        bound: What that allows.
        use: What the caller has in use, or would have; left out for rates, which are used up.
        retry_after_s: Seconds after which there is enough again; None when there never will be.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "QUOTA_EXCEEDED"

    def __init__(self, quota: str, bound: float, *, use: float | None = None, retry_after_s: float | None) -> None:
        used = "" if use is None else f": {use:,.12g} in use"
        again = "" if retry_after_s is None else f"; try again in {retry_after_s:.3g} s"
        message = f"the caller's quota of {quota}, {bound:,.12g}, is used up{used}{again}"
        super().__init__(message, retry_after_s=retry_after_s)
        self.quota = quota
        self.metadata = {"quota": quota, "bound": f"{bound:.12g}", "use": f"{bound if use is None else use:.12g}"}


class TooLargeError(CutoutError):
    """It can never fit into this server's limits."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "TOO_LARGE"


class AnswerTooLargeError(TooLargeError):
    """An answer does not fit into one message.

    Args:
        limit: Bytes that one message may have.
        instead: What to do about it.
    """

    default_reason = "ANSWER_TOO_LARGE"

    def __init__(self, limit: int, instead: str = "") -> None:
        instead = instead or (
            "use StreamSegmentation (REST: POST /v1/segment:stream), which sends one object after the other, or "
            "StreamGeneration (POST /v1/generate:stream)"
        )
        super().__init__(f"the answer has more than the {limit:,} bytes that one message may have: {instead}")


class UnavailableError(CutoutError):
    """Starting or draining."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float, reason: str = "") -> None:
        super().__init__(message, reason=reason, retry_after_s=retry_after_s)

    @classmethod
    def draining(cls) -> "UnavailableError":
        """What calls are refused or ended with while the server stops."""
        return cls("the server is shutting down", retry_after_s=1.0, reason="DRAINING")


class DeadlineError(CutoutError):
    """Time was up before the work was done."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class UnimplementedError(CutoutError):
    """There is no such method."""

    code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = "METHOD_NOT_FOUND"


class InternalError(CutoutError):
    """Everything that nobody foresaw."""

    @classmethod
    def of(cls, request_id: str) -> "InternalError":
        """What was logged, in the words that callers get."""
        return cls(f"internal error; the server's log has it under request id {request_id}")


def _as_it_was(kind: type[CutoutError], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> CutoutError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(attributes)
    return error


def to_status(error: CutoutError, request_id: str) -> Status:
    """What a caller gets to see of an error."""
    details = ErrorDetails(
        error.reason, error.violations, error.retry_after_s, request_id, error.omitted_violations, error.metadata
    )
    return pack(error.code, error.message, details)
