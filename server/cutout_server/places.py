"""Which calls are let in: so many at once, of one caller and in all, and none once the server ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cutout_common.allowance import Allowance, NoRoomError

from cutout_server.errors import OverloadedError, UnavailableError


class Places:
    """A bounded number of something; one too many is turned away at once.

    Args:
        what: Its name, in the plural, for errors.
        total: How many there may be.
        share: How many one caller may have.
    """

    def __init__(self, what: str, total: int, share: int) -> None:
        self._what = what
        self._places = Allowance(total, share)

    @asynccontextmanager
    async def one(self, caller: str) -> AsyncIterator[None]:
        """Takes a place for the block.

        Raises:
            OverloadedError: None is free.
        """
        with self._places.hold(caller) as place:
            try:
                await place.grow(1, 0)
            except NoRoomError as full:
                have = (
                    f"{caller} has {self._places.of(caller)}" if full.of_caller else f"there are {self._places.in_use}"
                )
                raise OverloadedError(
                    f"{have} {self._what} at once; try again in {full.retry_after_s:.1f} s",
                    reason=f"TOO_MANY_{self._what.upper()}",
                    retry_after_s=full.retry_after_s,
                ) from None
            yield


class Drain:
    """Knows the calls inside; at the end of a server new ones are turned away, and those that are there are finished.

    Attributes:
        begun: Set when no more calls are let in.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._inside: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """Knows a call for the block.

        Raises:
            UnavailableError: The server is draining, or the time that calls inside had is over.
        """
        if self.begun.is_set():
            raise UnavailableError.draining()
        end = asyncio.timeout(None)
        self._inside.add(end)
        self._idle.clear()
        try:
            async with end:
                yield
        except TimeoutError:
            if not end.expired():
                raise
            raise UnavailableError.draining() from None
        finally:
            self._inside.remove(end)
            if not self._inside:
                self._idle.set()

    def end(self) -> None:
        """Ends the calls that are inside still; each is told why, which gRPC would not tell."""
        now = asyncio.get_running_loop().time()
        for call in self._inside:
            call.reschedule(now)

    async def emptied(self) -> None:
        """Returns once no call is left inside."""
        await self._idle.wait()
