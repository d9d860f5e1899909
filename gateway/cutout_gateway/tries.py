"""A call that is tried at one server after the other, as far as that helps and the caller has time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from cutout_common import failover
from cutout_common.routing import Place

from cutout_gateway.errors import HttpError
from cutout_gateway.link import Links

T = TypeVar("T")


async def at_servers(
    links: Links,
    place: Place,
    timeout_s: float,
    attempt: Callable[[grpc.aio.Channel, float], Awaitable[T]],
    *,
    request_id: str,
    has_begun: Callable[[], bool] = lambda: False,
) -> T:
    """What an attempt gives at the first server that does not fail for a reason of its own.

    Args:
        links: To the servers.
        place: Where the call should go.
        timeout_s: Seconds that it may take with all tries.
        attempt: Makes the call through a channel, within seconds.
        request_id: Under which the logs have it.
        has_begun: Whether the server that fails had begun to answer: another one goes on then, if it was lost.

    Raises:
        grpc.aio.AioRpcError: It failed.
        HttpError: 500 when it is given up: servers were lost while they had it.
    """
    course = links.course(place)
    end = time.monotonic() + timeout_s
    left_s = timeout_s
    while True:
        member = course.next()
        with course.busy(member):
            try:
                answer = await attempt(links.channel(member), left_s)
            except grpc.aio.AioRpcError as failure:
                tell = course.interrupted if has_begun() else course.failed
                pause_s = tell(member, failure)
                left_s = end - time.monotonic()
                if course.is_given_up:
                    raise HttpError(500, failover.given_up(request_id)) from None
                if pause_s is None or pause_s >= left_s:
                    raise course.verdict(failure) from None
            else:
                course.succeeded(member)
                return answer
        await asyncio.sleep(pause_s)
