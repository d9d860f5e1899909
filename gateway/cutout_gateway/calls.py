"""Calls to the gRPC server: started with metadata and a deadline, and ended when the client leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from cutout_common import channels
from google.protobuf.message_factory import GetMessageClass

from cutout_gateway.descriptors import Rpc
from cutout_gateway.headers import Metadata

T = TypeVar("T")

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


async def begin(rpc: Rpc, metadata: Metadata, channel: grpc.aio.Channel, timeout_s: float) -> Any:
    """A call that the server takes, whose messages are still to be written: nothing is read from whom it turns away.

    A server that never tells takes it.

    Raises:
        grpc.aio.AioRpcError: It does not.
    """
    call = start(channel, rpc, [*metadata, channels.ASK_FIRST], timeout_s, None)

    async def answer() -> None:
        if channels.ASK_FIRST not in tuple(await call.initial_metadata()):
            await call.code()  # It is refused: gRPC answers a write meanwhile by an error of its own instead.

    told = asyncio.ensure_future(answer())
    try:
        await asyncio.wait({told}, timeout=ANSWER_S)
        if call.done():
            await call
    except BaseException:
        call.cancel()
        raise
    finally:
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)
    return call


async def ask(rpc: Rpc, metadata: Metadata, channel: grpc.aio.Channel, timeout_s: float) -> None:
    """Asks by a call of its own whether the server takes calls with this metadata; returns once it says so.

    The call itself is made when its message is there: the server keeps room for whatever it awaits. Servers other than
    ours need not say anything.

    Raises:
        grpc.aio.AioRpcError: It does not.
    """
    call = start(channel, rpc, [*metadata, channels.ASK_FIRST], timeout_s, None)
    try:
        if channels.ASK_FIRST not in tuple(await call.initial_metadata()):
            await (call.read() if rpc.server_streaming else call)
    finally:
        call.cancel()


async def unless_refused(asking: Coroutine[Any, Any, None], reading: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What is read, beginning when it is let in, or when nobody says so for long; raises when either does."""
    asked = asyncio.ensure_future(asking)
    tasks: set[asyncio.Future[Any]] = {asked}
    try:
        await asyncio.wait(tasks, timeout=ANSWER_S)
        if asked.done():
            asked.result()
        read = asyncio.ensure_future(reading())
        tasks.add(read)
        await asyncio.wait(tasks if not asked.done() else {read}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result()
        return await read
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
