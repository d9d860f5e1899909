"""Calls to the gRPC server: started with metadata and a deadline, and ended when the client leaves."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from cutout_gateway.descriptors import Rpc
from cutout_gateway.headers import Metadata

# Servers other than ours need not say that they have let a caller in.
ANSWER_S = 1.0


def start(channel: grpc.aio.Channel, rpc: Rpc, metadata: Metadata, timeout_s: float, request: bytes | None) -> Any:
    """Starts a call; the serialized request is None when the caller writes messages, one or a stream of them.

    Returns:
        The grpc.aio call of the RPC's kind. On the wire one message is a stream of one.
    """
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    multicallable: Any = kinds[request is None, rpc.server_streaming](
        rpc.path, response_deserializer=GetMessageClass(rpc.output).FromString
    )
    first = () if request is None else (request,)
    return multicallable(*first, metadata=grpc.aio.Metadata(*metadata), timeout=timeout_s)


async def is_let_in(call: Any) -> bool:
    """Whether the server takes a call with `channels.ASK_FIRST` in its metadata; one that never tells does."""
    told = asyncio.ensure_future(call.initial_metadata())
    await asyncio.wait({told}, timeout=ANSWER_S)
    told.cancel()
    return not call.done()


@asynccontextmanager
async def tended(call: Any, tender: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `tender` beside a call; what it raises ends the call, and is raised here in place of the cancellation.

    However this context is left, the call and `tender` have ended then.
    """

    async def run() -> None:
        try:
            await tender
        except BaseException:
            call.cancel()
            raise

    task = asyncio.create_task(run())
    try:
        yield
    except (asyncio.CancelledError, grpc.aio.AioRpcError):
        if task.done() and not task.cancelled() and (failure := task.exception()):
            raise failure from None
        raise
    finally:
        call.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def write_all(call: Any, messages: AsyncIterator[bytes]) -> None:
    """Sends serialized requests, as fast as the server takes them, until it has answered."""
    try:
        async for message in messages:
            await call.write(message)
        await call.done_writing()
    except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
        return  # the server answered early; the answer says why
