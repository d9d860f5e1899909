"""Health and reflection, which need no key: their callers cost next to nothing, and cannot keep each other out."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
from cutout_common import request_ids
from cutout_common.allowance import Allowance

from cutout_server import call_context
from cutout_server.errors import CutoutError, OverloadedError, TooLargeError
from cutout_server.exchange import Bounds, Context, Exchange, abort, bare, requested, servicer_method

# Messages that arrive at once, one of each connection, and how long one may take while others wait.
AT_ONCE = 4
STALL_S = 0.25
# The name of a service or of a file.
MAX_BYTES = 4096
# Calls under way, such as Watch; the oldest makes room for one more.
MAX_CALLS = 1024


class Keyless:
    """Serves such methods, and tells their callers of refusals in our form."""

    def __init__(self, bounds: Bounds) -> None:
        room = Allowance(AT_ONCE * bounds.max_message_bytes, bounds.max_message_bytes)
        self._bounds = Bounds(room, room, bounds.max_message_bytes, STALL_S, bounds.trimmer)
        self._ends: dict[asyncio.Timeout, None] = {}  # The oldest call's first.

    def guarded(self, handler: Any, metadata: dict[str, str]) -> Any:
        """The handler of a method, bounded."""
        inner = servicer_method(handler)

        async def serve(_: AsyncIterator[bytes], context: Context) -> None:
            request_id = request_ids.usable_or_new(metadata.get(request_ids.HEADER, ""))
            call_context.begin(call_context.Call(request_id, call_context.ANONYMOUS, float("inf"), peer=context.peer()))
            exchange = Exchange(context, self._bounds)

            async def next_message() -> bytes | None:
                data = await exchange.read()
                exchange.drop()
                if data is not None and len(data) > MAX_BYTES:
                    raise TooLargeError(f"expected a message of at most {MAX_BYTES} bytes, got {len(data):,}")
                return data

            async def work() -> CutoutError | None:
                try:
                    async with self._one_of_many():
                        with exchange.of(context.peer()):
                            answers = inner(await requested(handler, next_message), context)
                            if inspect.isasyncgen(answers):
                                async with aclosing(answers):
                                    async for answer in answers:
                                        await context.write(answer)
                            elif (answer := await answers) is not None:  # Watch writes its answers itself.
                                await context.write(answer)
                except CutoutError as error:
                    return bare(error)
                return None

            if refused := await work():
                await abort(context, refused, request_id)

        return grpc.stream_stream_rpc_method_handler(serve, response_serializer=handler.response_serializer)

    @asynccontextmanager
    async def _one_of_many(self) -> AsyncIterator[None]:
        """The oldest call makes room for one too many."""
        end = asyncio.timeout(None)
        self._ends[end] = None
        try:
            async with end:
                if len(self._ends) > MAX_CALLS:
                    oldest = next(iter(self._ends))
                    del self._ends[oldest]
                    oldest.reschedule(asyncio.get_running_loop().time())
                yield
        except TimeoutError:
            raise OverloadedError(
                "the call made room for newer ones", reason="TOO_MANY_CALLS", retry_after_s=1.0
            ) from None
        finally:
            self._ends.pop(end, None)
