"""Around every request: its id, its line in the log, and an answer when everything else failed."""

import asyncio
import time

import structlog
from cutout_common import request_ids
from google.protobuf.descriptor_pool import DescriptorPool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout_gateway.body import Body
from cutout_gateway.errors import ClientGoneError, internal
from cutout_gateway.headers import request_id
from cutout_gateway.reply import Reply

log = structlog.get_logger("cutout_gateway")
CLIENT_CLOSED_REQUEST = 499


class Observe:
    """Middleware; puts `request_id` into `scope["state"]` and reads `route` from there."""

    def __init__(self, app: ASGIApp, pool: DescriptorPool) -> None:
        self._app = app
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call_id = request_id(headers)
        state = scope.setdefault("state", {})
        state["request_id"] = call_id
        began = time.perf_counter()
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[request_ids.HEADER] = call_id
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
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
            log.info(
                "request",
                request_id=call_id,
                method=scope["method"],
                route=state.get("route", ""),
                status=status,
                ms=round((time.perf_counter() - began) * 1000, 1),
            )
