"""Around every call: request id, key, role, deadline, draining; then one record of it for logs and metrics.

This is the one place that ends calls with errors. Messages are read and parsed inside, once the key is known, so that
one that cannot be parsed is refused and recorded as all else is; and answers are serialized inside, so that what is
recorded is what the caller gets.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import grpc
import structlog
from cutout_common import channels, forwarded, logs, request_ids, routing, traces

from cutout_server import call_context
from cutout_server.auth import Auth
from cutout_server.call_context import ASKED, CallObserver, CallRecord, Rpc
from cutout_server.errors import (
    CutoutError,
    DeadlineError,
    InternalError,
    TooLargeError,
    UnimplementedError,
)
from cutout_server.exchange import Bounds, Context, Exchange, abort, bare, requested, serialized, servicer_method
from cutout_server.keyless import Keyless
from cutout_server.places import Drain, Places

log = structlog.get_logger()

OURS = "/cutout.v1."
# Of a call: many short ones take ten times their bytes here.
MAX_HEADERS = 128
# They live by their idle time, or by each frame's, instead of a deadline.
SESSIONS = frozenset({"SegmentSession", "TrackObjects", "TrackVideo"})
# Codes that are the server's fault.
FAULTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the contract's services; those of health and reflection, as far as reading goes.

    Args:
        auth: Knows the keys.
        drain: Knows the calls inside.
        trusted_proxies: Networks of those who are believed when they say whom a call comes from.
        observers: Hear of every call of the contract's services.
        tracer: Makes a span of each.
        default_deadline_s: Deadline of calls that bring none.
        max_deadline_s: Calls that bring a later one get this.
        bounds: What messages may take.
        places: Of calls.
        sessions: Of those of them that are sessions.
    """

    def __init__(
        self,
        auth: Auth,
        drain: Drain,
        observers: Sequence[CallObserver],
        tracer: traces.Tracer,
        *,
        trusted_proxies: Sequence[forwarded.Network],
        default_deadline_s: float,
        max_deadline_s: float,
        bounds: Bounds,
        places: Places,
        sessions: Places,
    ) -> None:
        self._auth = auth
        self._drain = drain
        self._observers = observers
        self._tracer = tracer
        self._trusted_proxies = trusted_proxies
        self._default_deadline_s = default_deadline_s
        self._max_deadline_s = max_deadline_s
        self._bounds = bounds
        self._places = places
        self._sessions = sessions
        self._keyless = Keyless(bounds)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Puts `_call` around a handler."""
        details = handler_call_details
        handler = await continuation(details)
        given = details.invocation_metadata or ()
        metadata = {key: value for key, value in given if isinstance(value, str)}
        if len(given) > MAX_HEADERS:
            return grpc.stream_stream_rpc_method_handler(self._too_many_headers(len(given), metadata))
        if not details.method.startswith(OURS):
            return handler and self._keyless.guarded(handler, metadata)
        # On the wire a single message is a stream of one. As streams all handlers begin before their first message has
        # come, and none waits forever for one that does not come.
        serve = self._wrapped(handler, details.method, metadata) if handler else self._unknown(details.method, metadata)
        return grpc.stream_stream_rpc_method_handler(serve)

    def _wrapped(self, handler: Any, path: str, metadata: dict[str, str]) -> Callable[..., Awaitable[None]]:
        _, service, method = path.split("/")
        rpc = Rpc(TYPES[handler.request_streaming, handler.response_streaming], service, method)
        inner = servicer_method(handler)

        async def work(exchange: Exchange, context: Context) -> None:
            async def send(response: Any) -> None:
                data = serialized(handler, response, self._bounds.max_message_bytes)
                del response  # A copy less in memory while the caller takes it in.
                await exchange.write(data)

            request = requested(handler, exchange.await_next if method in SESSIONS else exchange.read)
            if not handler.response_streaming:
                await send(await inner(await request, context))
                return
            async with aclosing(inner(await request, context)) as responses:
                async for response in responses:
                    await send(response)

        return self._called(rpc, metadata, work)

    def _unknown(self, path: str, metadata: dict[str, str]) -> Callable[..., Awaitable[None]]:
        async def refuse(_: Exchange, __: Context) -> None:
            raise UnimplementedError(f"there is no method {path}; the server may be older than the caller")

        # Callers make such names up: none of them becomes a label.
        return self._called(Rpc("unknown", "unknown", "unknown"), metadata, refuse)

    def _too_many_headers(self, count: int, metadata: dict[str, str]) -> Callable[..., Awaitable[None]]:
        async def refuse(_: Exchange, __: Context) -> None:
            raise TooLargeError(f"a call may have at most {MAX_HEADERS} headers, got {count}")

        return self._called(Rpc("unknown", "unknown", "unknown"), metadata, refuse)

    def _called(
        self, rpc: Rpc, metadata: dict[str, str], work: Callable[[Exchange, Context], Awaitable[None]]
    ) -> Callable[..., Awaitable[None]]:
        async def serve(_: AsyncIterator[bytes], context: Context) -> None:
            request_id = request_ids.usable_or_new(metadata.get(request_ids.HEADER, ""))
            context.set_trailing_metadata(((request_ids.HEADER, request_id),))
            refused = await self._call(rpc, metadata, context, request_id, work)
            # gRPC keeps the exception that this raises, and the frames that it passes: none of them has the request.
            if refused is not None:
                await abort(context, refused, request_id)

        return serve

    async def _call(
        self,
        rpc: Rpc,
        metadata: dict[str, str],
        context: Context,
        request_id: str,
        work: Callable[[Exchange, Context], Awaitable[None]],
    ) -> CutoutError | None:
        """Does the work of a call and records it; returns what it is refused with."""
        started_s = time.monotonic()
        asks = channels.ASK_FIRST[0] in metadata
        self._started(rpc, counts=not asks)  # What asks first may do no more than that.
        exchange = Exchange(context, self._bounds)
        own_s = context.time_remaining()
        deadline_s = started_s + self._seconds(rpc, own_s)
        span = self._tracer.begin(f"{rpc.service}/{rpc.method}", metadata.get(traces.HEADER, ""))
        logs.bind_trace(span.traceparent)
        call = call_context.Call(
            request_id,
            call_context.ANONYMOUS,
            deadline_s,
            peer=self._peer(context),
            hold_answer=exchange.hold_answer,
            keep_message=exchange.keep,
            image_key=metadata.get(routing.KEY, ""),
            span=span,
        )
        code, reason = grpc.StatusCode.OK, ""
        refused: CutoutError | None = None
        try:
            caller = self._auth.identify(metadata)
            call = replace(call, caller=caller.name, account=self._auth.account(caller, call.peer))
            call_context.begin(call)
            caller.check(rpc.method)
            call.account.request()
            async with self._let_in(rpc, call, exchange):
                if metadata.get(channels.ASK_FIRST[0]) == channels.ASK_FIRST[1]:
                    await context.send_initial_metadata((channels.ASK_FIRST,))
                async with asyncio.timeout_at(_loop_time(call.deadline_s)):
                    await work(exchange, context)
        except (asyncio.CancelledError, grpc.aio.InternalError):  # The latter when the caller leaves amid a message.
            timed_out = context.time_remaining() is not None and context.time_remaining() <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if timed_out else grpc.StatusCode.CANCELLED
            reason = code.name
            if asks and not exchange.received:
                reason = ASKED
                call.account.only_asked()
            raise asyncio.CancelledError from None
        except TimeoutError:
            refused = DeadlineError(self._late(own_s))
        except CutoutError as error:
            refused = bare(error)
            call.stages.note(error)
        except Exception:
            log.exception("unexpected error", request_id=request_id, method=rpc.method)
            refused = InternalError.of(request_id)
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
                exchange.received,
                exchange.sent,
                call.stages.ms,
                call.stages.exceeded,
                span.traceparent,
            )
            self._started(rpc, counts=asks and reason != ASKED)
            for observer in self._observers:
                observer.finished(record)
            _end(span, record)
        return refused

    def _started(self, rpc: Rpc, *, counts: bool) -> None:
        for observer in self._observers if counts else ():
            observer.started(rpc)

    @asynccontextmanager
    async def _let_in(self, rpc: Rpc, call: call_context.Call, exchange: Exchange) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._drain.inside())
            if rpc.method in SESSIONS:
                stack.enter_context(call.account.session())
            await stack.enter_async_context(self._places.one(call.party))
            if rpc.method in SESSIONS:
                await stack.enter_async_context(self._sessions.one(call.party))
            stack.enter_context(exchange.of(call.party))
            yield

    def _peer(self, context: Context) -> str:
        """Where a call comes from: an address with its port, or without one when it was told by who is trusted."""
        peer = unquote(context.peer())
        connected = forwarded.address(peer.partition(":")[2]) if peer.startswith(("ipv4:", "ipv6:")) else ""
        told = [str(value) for key, value in context.invocation_metadata() or () if key == forwarded.X_FORWARDED_FOR]
        caller = forwarded.caller(connected, forwarded.X_FORWARDED_FOR, told, self._trusted_proxies)
        return peer if caller == connected else f"ipv6:[{caller}]" if ":" in caller else f"ipv4:{caller}"

    def _seconds(self, rpc: Rpc, own_s: float | None) -> float:
        """Time that a call has, of which its caller gave it `own_s`."""
        if own_s is None:
            return float("inf") if rpc.method in SESSIONS else self._default_deadline_s
        return own_s if rpc.method in SESSIONS else min(own_s, self._max_deadline_s)

    def _late(self, own_s: float | None) -> str:
        if own_s is None:
            given = f"{self._default_deadline_s:g} s, which calls get that bring no deadline; set a longer one"
            return f"the call took longer than {given}"
        if own_s > self._max_deadline_s:
            return f"the call took longer than {self._max_deadline_s:g} s, the most that this server gives a call"
        return f"the deadline that the call came with passed, {own_s:.3g} s after its arrival; set a longer one"


def _loop_time(deadline_s: float) -> float | None:
    """A deadline on the clock of time.monotonic, which is the loop's; None when there is none."""
    return None if deadline_s == float("inf") else deadline_s


def _end(span: traces.Span, record: CallRecord) -> None:
    span.end(
        record.code.name if record.code in FAULTS else "",
        rpc__system="grpc",
        rpc__service=record.rpc.service,
        rpc__method=record.rpc.method,
        rpc__grpc__status_code=record.code.value[0],
        cutout__request_id=record.request_id,
        cutout__caller=record.caller,
        cutout__reason=record.reason,
    )
