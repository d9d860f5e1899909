"""How many calls of a client are under way at once. What goes beyond waits here, where it costs the server nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from cutout_common.status import ErrorDetails

from cutout_client.errors import DeadlineError
from cutout_client.transport import Call


class Turns:
    """Lets a number of threads go on at once, in the order in which they came."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.Semaphore(count)

    @contextmanager
    def turn(self, call: Call) -> Iterator[None]:
        """Waits for a call's turn, and ends it afterwards.

        Raises:
            DeadlineError: It did not come within the call's own timeout.
        """
        if not self._free.acquire(timeout=call.patience_s()):
            raise _late(self._count, call)
        try:
            call.begin()
            yield
        finally:
            self._free.release()


class AsyncTurns:
    """As `Turns`, for the tasks of one event loop."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def turn(self, call: Call) -> AsyncIterator[None]:
        """As `Turns.turn`."""
        try:
            async with asyncio.timeout(call.patience_s()):
                await self._free.acquire()
        except TimeoutError:
            raise _late(self._count, call) from None
        try:
            call.begin()
            yield
        finally:
            self._free.release()


def _late(count: int, call: Call) -> DeadlineError:
    message = f"its turn did not come within {call.limit_s:g} s: the client has max_in_flight={count} calls under way"
    return DeadlineError(grpc.StatusCode.DEADLINE_EXCEEDED, message, ErrorDetails(request_id=call.request_id))
