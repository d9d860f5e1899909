"""Around every request: its id, its line in the log, its metrics, and an answer when everything else failed."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from cutout_common import forwarded, logs, request_ids, traces
from google.protobuf.descriptor_pool import DescriptorPool
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout_gateway import metrics
from cutout_gateway.body import Body
from cutout_gateway.errors import ClientGoneError, internal
from cutout_gateway.headers import request_id
from cutout_gateway.metrics import Metrics
from cutout_gateway.reply import Reply
from cutout_gateway.settings import GatewaySettings

log = structlog.get_logger("cutout_gateway")
OK = 200
INTERNAL = 500
CLIENT_CLOSED_REQUEST = 499
# Asked every few seconds, for as long as all is well.
PROBES = frozenset({"/healthz", "/readyz", metrics.PATH})


class Observe:
    """Middleware; puts `request_id`, `client` (the address that it comes from) and `span` into `scope["state"]`.

    From there it reads `route`, if it is not one of `pages`.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: GatewaySettings,
        pool: DescriptorPool,
        pages: Sequence[BaseRoute],
        metrics: Metrics,
        tracer: traces.Tracer,
    ) -> None:
        self._app = app
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._tracer = tracer
        self._paths = frozenset(page.path for page in pages if isinstance(page, Route))
        self._folders = tuple(page.path for page in pages if isinstance(page, Mount))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call_id = request_id(headers)
        state = scope.setdefault("state", {})
        state["request_id"] = call_id
        state["client"] = self._client(scope, headers)
        span = state["span"] = self._begin(scope, headers)
        began = time.perf_counter()
        status = received = sent = 0

        async def receive_noted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_noted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[request_ids.HEADER] = call_id
            sent += len(message.get("body", b""))
            await send(message)

        self._metrics.in_hand.inc()
        try:
            await self._app(scope, receive_noted, send_noted)
        except ClientGoneError:
            status = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            status = status or CLIENT_CLOSED_REQUEST
            raise
        except Exception:  # the last resort: logged, and answered without a word of it
            log.exception("request failed", request_id=call_id)
            if status == 0:
                await Reply(send_noted, Body(headers, receive)).error(internal(call_id), self._pool, call_id)
        finally:
            seconds = time.perf_counter() - began
            route = state.get("route") or self._page(scope["path"])
            self._metrics.in_hand.dec()
            self._metrics.finished(scope["method"], route, status, seconds, received, sent, span.traceparent)
            span.end(
                str(status) if status >= INTERNAL else "",
                http__request__method=scope["method"],
                http__route=route,
                http__response__status_code=status,
                cutout__request_id=call_id,
            )
            write = log.debug if route in PROBES and status == OK else log.info
            write(
                "request",
                request_id=call_id,
                client=state["client"],
                method=scope["method"],
                route=route,
                status=status,
                ms=round(seconds * 1000, 1),
            )

    def _begin(self, scope: Scope, headers: Headers) -> traces.Span:
        traceparent = headers.get(traces.HEADER, "")
        # What is asked every few seconds is no part of anybody's trace.
        probed = scope["path"] in PROBES
        span = traces.Untraced(traceparent) if probed else self._tracer.begin(scope["method"], traceparent)
        logs.bind_trace(span.traceparent)
        return span

    def _client(self, scope: Scope, headers: Headers) -> str:
        peer, _ = scope.get("client") or ("", 0)
        header = self._settings.proxy_header
        return forwarded.caller(
            forwarded.address(peer), header, headers.getlist(header), self._settings.trusted_proxies
        )

    def _page(self, path: str) -> str:
        """The route of a page of the gateway's own; empty when it is none."""
        if path in self._paths:
            return path
        return next((f"{folder}/*" for folder in self._folders if path.startswith(f"{folder}/")), "")
