"""How many decoded pixels there may be at once: large pictures wait their turn instead of filling the memory."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from cutout_common.pace import Pace

from cutout_server.errors import OverloadedError

# A session may keep its picture for minutes, so sessions never get more than this share.
SESSIONS_SHARE = 0.5
# Before one has ended: how long a session is taken to hold each of its pixels, if they are all in use.
FIRST_SESSION_S = 10.0


def _nothing() -> None:
    """Nobody holds what it can do without."""


class PixelBudget:
    """First come, first served. Belongs to the event loop.

    Attributes:
        on_short: Called when somebody has to wait: whoever can do without what it holds gives it back.
    """

    def __init__(self, pixels: int) -> None:
        self.on_short: Callable[[], None] = _nothing
        self._free = pixels
        self._free_for_sessions = self._for_sessions = int(pixels * SESSIONS_SHARE)
        self._pace = Pace(FIRST_SESSION_S / pixels, pixels)
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """Waits until there is room for so many pixels and holds it for the block."""
        await self._take(pixels)
        try:
            yield
        finally:
            self._give(pixels)

    @asynccontextmanager
    async def hold_for_session(self, pixels: int) -> AsyncIterator[None]:
        """Holds room for a session's picture, which nobody can say how long it stays.

        Raises:
            OverloadedError: Other sessions have taken what sessions may take.
        """
        if pixels > self._free_for_sessions:
            delay_s = self._pace.delay_s(pixels - self._free_for_sessions)
            raise OverloadedError("open sessions hold too many pixels", retry_after_s=delay_s)
        if self._free_for_sessions == self._for_sessions:
            self._pace.began()
        self._free_for_sessions -= pixels
        began_s = time.monotonic()
        try:
            async with self.hold(pixels):
                yield
        finally:
            self._pace.given_back(time.monotonic() - began_s, self._for_sessions - self._free_for_sessions, pixels)
            self._free_for_sessions += pixels

    @contextmanager
    def hold_if_free(self, pixels: int) -> Iterator[bool]:
        """Holds room that nobody waits for, and says whether there is so much."""
        is_free = not self._waiting and pixels <= self._free
        if is_free:
            self._free -= pixels
        try:
            yield is_free
        finally:
            if is_free:
                self._give(pixels)

    async def _take(self, pixels: int) -> None:
        if not self._waiting and pixels <= self._free:
            self._free -= pixels
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (pixels, granted)
        self._waiting.append(entry)
        self.on_short()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove(entry)
                self._grant()  # Whoever stood behind may fit.
            else:
                self._give(pixels)
            raise

    def _give(self, pixels: int) -> None:
        self._free += pixels
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            pixels, granted = self._waiting.popleft()
            self._free -= pixels
            granted.set_result(None)
