"""Calls that are made again: at another server while there are several, and after a pause that a full one asks for.

gRPC itself makes a call again while the only server is unavailable.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, TypeVar

import grpc
from cutout_common import failover
from cutout_common.delivered import AnswerChangedError, Delivered
from cutout_common.failover import Course

from cutout_client import errors
from cutout_client.diagnosis import translated, translated_async
from cutout_client.errors import CutoutError, OverloadedError, UnavailableError
from cutout_client.link import AsyncLink, Link
from cutout_client.transport import Call, Stubs

T = TypeVar("T")


def retried(call: Call, link: Link, attempt: Callable[[Stubs], T]) -> T:
    """What an attempt at a server gives, once one has room for it.

    Raises:
        CutoutError: The call failed; nothing is waited for beyond the call's deadline.
    """
    while True:
        try:
            with translated(call):
                return anywhere(call, link, attempt)
        except (OverloadedError, UnavailableError) as error:
            pause_s = call.pause_s(error)
            if pause_s is None:
                raise
        time.sleep(pause_s)


async def retried_async(call: Call, link: AsyncLink, attempt: Callable[[Stubs], Awaitable[T]]) -> T:
    """As `retried`, for asyncio."""
    while True:
        try:
            async with translated_async(call):
                return await anywhere_async(call, link, attempt)
        except (OverloadedError, UnavailableError) as error:
            pause_s = call.pause_s(error)
            if pause_s is None:
                raise
        await asyncio.sleep(pause_s)


def anywhere(call: Call, link: Link, attempt: Callable[[Stubs], T]) -> T:
    """What an attempt gives at the first server at which it does not fail for reasons that another one may not have.

    Raises:
        CutoutError: It is given up.
        grpc.RpcError: It failed.
    """
    course = link.course(call)
    while True:
        member = course.next()
        call.member = member
        with course.busy(member):
            try:
                answer = attempt(link.stubs(member))
            except grpc.RpcError as failure:
                pause_s = _pause_s(course.failed(member, failure), call, course, failure)
            else:
                course.succeeded(member)
                return answer
        time.sleep(pause_s)


async def anywhere_async(call: Call, link: AsyncLink, attempt: Callable[[Stubs], Awaitable[T]]) -> T:
    """As `anywhere`, for asyncio."""
    if not link.addresses.are_known:
        await asyncio.to_thread(link.addresses.now)
    course = link.course(call)
    while True:
        member = course.next()
        call.member = member
        with course.busy(member):
            try:
                answer = await attempt(link.stubs(member))
            except grpc.RpcError as failure:
                pause_s = _pause_s(course.failed(member, failure), call, course, failure)
            else:
                course.succeeded(member)
                return answer
        await asyncio.sleep(pause_s)


def _pause_s(wanted_s: float | None, call: Call, course: Course, failure: grpc.RpcError) -> float:
    """Seconds until the next server is asked, if that is in time.

    Raises:
        CutoutError: The call is given up.
        grpc.RpcError: It failed.
    """
    remaining_s = call.remaining_s()
    if wanted_s is not None and (remaining_s is None or wanted_s < remaining_s):
        return wanted_s
    if call.losses.are_enough:
        raise given_up(call)
    raise course.verdict(failure)


def given_up(call: Call) -> CutoutError:
    """What is told of a call that servers were lost with."""
    return errors.from_status(failover.given_up(call.request_id), call.request_id)


def flow(call: Call, link: Link, start: Callable[[], tuple[Any, Any]]) -> Generator[Any, None, None]:
    """The messages of a streamed answer, each once: when its server is lost, another one goes on.

    Args:
        call: That it belongs to.
        link: To the servers.
        start: Begins the answer at a server, as `begun` gives it.

    Raises:
        CutoutError: It is given up.
        grpc.RpcError: It failed.
    """
    delivered = Delivered()
    while True:
        rpc, message = start()
        delivered.begin()
        try:
            while message is not None:
                if delivered.is_new(message):
                    yield message
                message = next(rpc, None)
            delivered.end()
        except AnswerChangedError:
            raise changed(call) from None
        except grpc.RpcError as failure:
            pause_s = interrupted(call, link, failure)
        else:
            return
        finally:
            rpc.cancel()
        time.sleep(pause_s)


async def flow_async(
    call: Call, link: Callable[[], AsyncLink], start: Callable[[], Awaitable[tuple[Any, Any]]]
) -> AsyncGenerator[Any, None]:
    """As `flow`, for asyncio."""
    delivered = Delivered()
    while True:
        rpc, message = await start()
        delivered.begin()
        try:
            while message is not grpc.aio.EOF:
                if delivered.is_new(message):
                    yield message
                message = await rpc.read()
            delivered.end()
        except AnswerChangedError:
            raise changed(call) from None
        except grpc.RpcError as failure:
            pause_s = interrupted(call, link(), failure)
        else:
            return
        finally:
            rpc.cancel()
        await asyncio.sleep(pause_s)


def interrupted(call: Call, link: Link, failure: grpc.RpcError) -> float:
    """Seconds after which what has begun may go on at another server.

    Raises:
        CutoutError: The call is given up.
        grpc.RpcError: It failed for another reason than that its server is gone or going.
    """
    course = link.course(call)
    assert call.member is not None  # noqa: S101 - it has answered
    wanted_s = course.interrupted(call.member, failure) if call.connection.retries else None
    return _pause_s(wanted_s, call, course, failure)


def changed(call: Call) -> CutoutError:
    """What is told of a stream that no other server can go on with."""
    return errors.from_status(failover.changed(call.request_id), call.request_id)


def begun(call: Call, link: Link, attempt: Callable[[Stubs], Any]) -> tuple[Any, Any]:
    """A stream that has begun, at a server that has room for it: its RPC and its first message.

    The message is None when there is none. What comes then is read as fast as the caller likes; see `flow`.
    """

    def first(stubs: Stubs) -> tuple[Any, Any]:
        rpc = attempt(stubs)
        try:
            return rpc, next(rpc, None)
        except BaseException:
            rpc.cancel()
            raise

    return retried(call, link, first)


async def begun_async(call: Call, link: AsyncLink, attempt: Callable[[Stubs], Any]) -> tuple[Any, Any]:
    """As `begun`, for asyncio; the message is `grpc.aio.EOF` when there is none."""

    async def first(stubs: Stubs) -> tuple[Any, Any]:
        rpc = attempt(stubs)
        try:
            return rpc, await rpc.read()
        except BaseException:
            rpc.cancel()
            raise

    return await retried_async(call, link, first)
