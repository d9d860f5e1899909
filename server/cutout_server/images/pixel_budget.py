"""How many decoded pixels there may be at once: large pictures wait their turn instead of filling the memory."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from cutout_common.allowance import Allowance, Held
from cutout_common.pace import Pace

from cutout_server import call_context
from cutout_server.errors import OverloadedError

# A session may keep its picture for minutes, so sessions never get more than this share.
SESSIONS_SHARE = 0.5
# Before one has ended: how long a session is taken to hold each of its pixels, if they are all in use.
FIRST_SESSION_S = 10.0
# The rest is for others, who else would find nothing free.
CALLERS_SHARE = 0.5


def _nothing() -> None:
    """The default of `on_short`: there is nothing to give back."""


class PixelBudget:
    """First come, first served, each caller up to its share. Belongs to the event loop.

    Args:
        pixels: How many there may be.
        callers_share: How much of them one caller may hold.

    Attributes:
        on_short: Called when somebody has to wait, so that pixels held for pictures that nobody asked for yet are given
            back.
    """

    def __init__(self, pixels: int, *, callers_share: float = CALLERS_SHARE) -> None:
        self.on_short: Callable[[], None] = _nothing
        self._room = Allowance(pixels, int(pixels * callers_share))
        self._free_for_sessions = self._for_sessions = int(pixels * SESSIONS_SHARE)
        self._of_sessions: Counter[str] = Counter()
        self._callers_share = callers_share
        self._pace = Pace(FIRST_SESSION_S / pixels, pixels)

    @property
    def in_use(self) -> int:
        """How many are held."""
        return self._room.in_use

    @asynccontextmanager
    async def hold(self, pixels: int, decoding: int = 0) -> AsyncIterator[Held]:
        """Waits until there is room and holds it for the block.

        Args:
            pixels: Of the picture.
            decoding: How many there are until it is decoded, if that is more; what is beyond `pixels` can be given back
                then. What exceeds a caller's share counts as the whole of it.
        """
        most = max(pixels, min(decoding, self._room.share))
        with self._room.hold(call_context.party()) as held:
            if not self._room.has(call_context.party(), most):
                self.on_short()
            await held.grow(most, float("inf"))
            yield held

    @asynccontextmanager
    async def hold_for_session(self, pixels: int, decoding: int = 0) -> AsyncIterator[Held]:
        """Holds room for a session's picture, which nobody can say how long it stays; see `hold`.

        Raises:
            OverloadedError: Other sessions have taken what sessions may take, or the caller's own its share of that.
        """
        party = call_context.party()
        own = self._of_sessions[party]
        if pixels > self._free_for_sessions:
            delay_s = self._pace.delay_s(pixels - self._free_for_sessions)
            raise OverloadedError("open sessions hold too many pixels", retry_after_s=delay_s)
        if own and own + pixels > self._for_sessions * self._callers_share:
            # Of what becomes free, its own sessions give a part.
            in_use = self._for_sessions - self._free_for_sessions
            delay_s = self._pace.delay_s(pixels * in_use / own)
            raise OverloadedError("the caller's open sessions hold too many pixels", retry_after_s=delay_s)
        if self._free_for_sessions == self._for_sessions:
            self._pace.began()
        self._free_for_sessions -= pixels
        self._of_sessions[party] += pixels
        began_s = time.monotonic()
        try:
            async with self.hold(pixels, decoding) as held:
                yield held
        finally:
            self._pace.given_back(time.monotonic() - began_s, self._for_sessions - self._free_for_sessions, pixels)
            self._free_for_sessions += pixels
            self._of_sessions -= Counter({party: pixels})  # Which forgets parties without any.

    @contextmanager
    def hold_if_free(self, pixels: int) -> Iterator[bool]:
        """Holds room that nobody waits for, and says whether there is so much."""
        with self._room.hold(call_context.party()) as held:
            yield held.grow_at_once(pixels)
