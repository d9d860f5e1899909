"""Around every call: request id, key, deadline, draining; then one record of it for logs and metrics.

This is the one place that turns errors into status.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import grpc
import structlog

from cutout_server import calls
from cutout_server.errors import CutoutError, DeadlineError, InternalError, to_status
from cutout_server.gate import ANONYMOUS, Gate

log = structlog.get_logger()

OURS = "/cutout.v1."
# Lives by its idle time instead of a deadline.
SESSION = "SegmentSession"
REQUEST_ID = "x-request-id"
REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
STATUS_DETAILS = "grpc-status-details-bin"
HANDLERS = {
    (False, False): ("unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("server_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("client_stream", grpc.stream_unary_rpc_method_handler),
    (True, True): ("bidi_stream", grpc.stream_stream_rpc_method_handler),
}

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Rpc:
    """Which method was called, in the words of the standard gRPC metrics."""

    type: str
    service: str
    method: str


@dataclass(frozen=True)
class CallRecord:
    """What there is to say about a call once it is over.

    Attributes:
        rpc: The method.
        request_id: The caller's, or ours.
        caller: Name that belongs to the key.
        peer: Address.
        code: How it ended.
        reason: UPPER_SNAKE; empty when it ended well.
        seconds: From its arrival to its end.
        received: Messages in.
        sent: Messages out.
        stages_ms: Where the time went.
    """

    rpc: Rpc
    request_id: str
    caller: str
    peer: str
    code: grpc.StatusCode
    reason: str
    seconds: float
    received: int
    sent: int
    stages_ms: dict[str, float]


class CallObserver(Protocol):
    """Hears of every call; logs and metrics hang here."""

    def started(self, rpc: Rpc) -> None:
        """A call has arrived."""

    def finished(self, record: CallRecord) -> None:
        """A call is over."""


@dataclass
class _Counts:
    received: int = 0
    sent: int = 0

    async def stream(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self.received += 1
            yield request


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the contract's services; health and reflection pass by."""

    def __init__(self, gate: Gate, observers: Sequence[CallObserver], *, default_deadline_s: float) -> None:
        self._gate = gate
        self._observers = observers
        self._default_deadline_s = default_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Puts `_call` around a handler."""
        details = handler_call_details
        handler = await continuation(details)
        if handler is None or not details.method.startswith(OURS):
            return handler
        kind, make = HANDLERS[handler.request_streaming, handler.response_streaming]
        _, service, method = details.method.split("/")
        rpc = Rpc(kind, service, method)
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        def arriving(request: Any, counts: _Counts) -> Any:
            if handler.request_streaming:
                return counts.stream(request)
            counts.received += 1
            return request

        async def respond(request: Any, context: Context) -> Any:
            async with self._call(rpc, metadata, context) as counts:
                response = await inner(arriving(request, counts), context)
                counts.sent += 1
                return response

        async def stream(request: Any, context: Context) -> None:
            async with (
                self._call(rpc, metadata, context) as counts,
                aclosing(inner(arriving(request, counts), context)) as responses,
            ):
                async for response in responses:
                    # Returns once the transport has room: a slow reader holds its own call back, and nothing piles up.
                    await context.write(response)
                    counts.sent += 1

        return make(
            stream if handler.response_streaming else respond,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _call(self, rpc: Rpc, metadata: dict[str, str], context: Context) -> AsyncIterator[_Counts]:
        started_s = time.monotonic()
        request_id = metadata.get(REQUEST_ID, "")
        if not REQUEST_ID_FORM.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        for observer in self._observers:
            observer.started(rpc)
        counts = _Counts()
        call = calls.Call(request_id, ANONYMOUS, self._deadline_s(rpc, context), peer=context.peer())
        code, reason = grpc.StatusCode.OK, ""
        refused: CutoutError | None = None
        try:
            caller = self._gate.identify(metadata)
            call = replace(call, caller=caller)
            calls.begin(call)
            with self._gate.inside():
                async with asyncio.timeout_at(_loop_time(call.deadline_s)):
                    yield counts
        except (asyncio.CancelledError, grpc.aio.InternalError):  # The latter when the caller leaves amid a message.
            timed_out = context.time_remaining() is not None and context.time_remaining() <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if timed_out else grpc.StatusCode.CANCELLED
            reason = code.name
            raise asyncio.CancelledError from None
        except TimeoutError:
            refused = DeadlineError(f"the call took longer than {self._default_deadline_s:g} s; set a longer deadline")
        except CutoutError as error:
            refused = error
        except Exception:
            log.exception("unexpected error", request_id=request_id, method=rpc.method)
            refused = InternalError(f"internal error; the server's log has it under request id {request_id}")
        finally:
            if refused is not None:
                code, reason = refused.code, refused.reason
            seconds = time.monotonic() - started_s
            record = CallRecord(
                rpc,
                request_id,
                call.caller,
                call.peer,
                code,
                reason,
                seconds,
                counts.received,
                counts.sent,
                call.stages.ms,
            )
            for observer in self._observers:
                observer.finished(record)
        if refused is not None:
            status = to_status(refused, request_id)
            trailing = ((REQUEST_ID, request_id), (STATUS_DETAILS, status.SerializeToString()))
            await context.abort(refused.code, refused.message, trailing_metadata=trailing)

    def _deadline_s(self, rpc: Rpc, context: Context) -> float:
        remaining_s = context.time_remaining()
        if remaining_s is None:
            remaining_s = float("inf") if rpc.method == SESSION else self._default_deadline_s
        return time.monotonic() + remaining_s


def _loop_time(deadline_s: float) -> float | None:
    """A deadline on the clock of time.monotonic, which is the loop's; None when there is none."""
    return None if deadline_s == float("inf") else deadline_s


class CallLog:
    """Writes one line for each call."""

    def started(self, rpc: Rpc) -> None:
        """Nothing yet."""

    def finished(self, record: CallRecord) -> None:
        """At `info` when it ended well, at `warning` otherwise."""
        write = log.info if record.code is grpc.StatusCode.OK else log.warning
        write(
            "call",
            request_id=record.request_id,
            caller=record.caller,
            peer=record.peer,
            service=record.rpc.service,
            method=record.rpc.method,
            code=record.code.name,
            **({"reason": record.reason} if record.reason else {}),
            ms=round(record.seconds * 1000, 1),
            stages={stage: round(ms, 1) for stage, ms in record.stages_ms.items()},
        )
