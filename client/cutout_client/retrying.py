"""Calls that are made again when the server is full, after the pause that it asks for.

gRPC itself makes a call again while the server is unavailable.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar

from cutout_client.diagnosis import translated, translated_async
from cutout_client.errors import OverloadedError
from cutout_client.transport import Call

T = TypeVar("T")


def retried(call: Call, attempt: Callable[[], T]) -> T:
    """What an attempt gives, once the server has room for it.

    Raises:
        CutoutError: The call failed; a full server is not waited for beyond the call's deadline.
    """
    while True:
        try:
            with translated(call):
                return attempt()
        except OverloadedError as error:
            pause_s = call.pause_s(error)
            if pause_s is None:
                raise
        time.sleep(pause_s)


async def retried_async(call: Call, attempt: Callable[[], Awaitable[T]]) -> T:
    """As `retried`, for asyncio."""
    while True:
        try:
            async with translated_async(call):
                return await attempt()
        except OverloadedError as error:
            pause_s = call.pause_s(error)
            if pause_s is None:
                raise
        await asyncio.sleep(pause_s)


def begun(call: Call, turn: AbstractContextManager[None], attempt: Callable[[], Any]) -> tuple[Any, Any]:
    """A stream that has begun, by its turn and once the server has room for it: its RPC and its first message.

    The message is None when there is none. The turn ends with it: what comes then is read as fast as the caller likes,
    who may want to make other calls meanwhile.
    """

    def first() -> tuple[Any, Any]:
        rpc = attempt()
        try:
            return rpc, next(rpc, None)
        except BaseException:
            rpc.cancel()
            raise

    with turn:
        return retried(call, first)


async def begun_async(
    call: Call, turn: AbstractAsyncContextManager[None], attempt: Callable[[], Awaitable[Any]]
) -> tuple[Any, Any]:
    """As `begun`, for asyncio; the message is `grpc.aio.EOF` when there is none."""

    async def first() -> tuple[Any, Any]:
        rpc = await attempt()
        try:
            return rpc, await rpc.read()
        except BaseException:
            rpc.cancel()
            raise

    async with turn:
        return await retried_async(call, first)
