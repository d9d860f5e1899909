"""A bounded amount of something that callers share: so much in all, and so much of it for each of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cutout_common.pace import Pace


class NoRoomError(Exception):
    """What was wanted did not become free in the time that there was for it.

    Attributes:
        of_caller: Whether it is the caller's own share that is used up.
        retry_after_s: After so many seconds there should be room.
    """

    def __init__(self, *, of_caller: bool, retry_after_s: float) -> None:
        super().__init__("no room")
        self.of_caller = of_caller
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class _Wish:
    caller: str
    amount: int
    granted: asyncio.Future[None]


class Allowance:
    """First come, first served; but whoever has used up its own share holds nobody else up. Belongs to an event loop.

    Attributes:
        total: How much there is.
        share: How much of it one caller may hold.
        in_use: How much is held.
    """

    def __init__(self, total: int, share: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.share = share
        self.in_use = 0
        self._clock = clock
        self._pace = Pace(0.1 / total, total, clock)
        self._by_caller: Counter[str] = Counter()
        self._waiting: list[_Wish] = []

    @contextmanager
    def hold(self, caller: str) -> Iterator["Held"]:
        """Nothing at first, to which one can add for as long as the block lasts."""
        held = Held(self, caller)
        try:
            yield held
        finally:
            held.shrink(0)

    def of(self, caller: str) -> int:
        """How much a caller holds."""
        return self._by_caller[caller]

    def has(self, caller: str, amount: int) -> bool:
        """Whether a caller would get so much at once."""
        is_free = self.in_use + amount <= self.total and self._by_caller[caller] + amount <= self.share
        return is_free and not any(self._fits_share(wish) for wish in self._waiting)

    def take_at_once(self, caller: str, amount: int) -> float | None:
        """For `Held`: the time at which there was room, None if there is none now."""
        if not self.has(caller, amount):
            return None
        self._change(caller, amount)
        return self._clock()

    async def take(self, caller: str, amount: int, patience_s: float) -> float:
        """For `Held`: waits for room and returns the time at which there was."""
        wish = _Wish(caller, amount, asyncio.get_running_loop().create_future())
        self._waiting.append(wish)
        self._grant()
        try:
            if not wish.granted.done():
                await asyncio.wait({wish.granted}, timeout=patience_s)
            if not wish.granted.done():
                raise self._no_room(wish)
        except BaseException:
            self._withdraw(wish)
            raise
        return self._clock()

    def give(self, caller: str, amount: int, taken_s: float) -> None:
        """For `Held`: there is so much room again."""
        self._pace.given_back(self._clock() - taken_s, self.in_use, amount)
        self._change(caller, -amount)
        self._grant()

    def _change(self, caller: str, amount: int) -> None:
        if not self.in_use:
            self._pace.began()
        self.in_use += amount
        self._by_caller[caller] += amount
        if not self._by_caller[caller]:
            del self._by_caller[caller]

    def _fits_share(self, wish: _Wish) -> bool:
        return self._by_caller[wish.caller] + wish.amount <= self.share

    def _grant(self) -> None:
        for wish in [wish for wish in self._waiting if self._fits_share(wish)]:
            if self.in_use + wish.amount > self.total:
                return  # However small the others are: they would keep it waiting for ever.
            if self._fits_share(wish):  # still
                self._waiting.remove(wish)
                self._change(wish.caller, wish.amount)
                wish.granted.set_result(None)

    def _withdraw(self, wish: _Wish) -> None:
        if wish.granted.done():
            self.give(wish.caller, wish.amount, self._clock())
        else:
            self._waiting.remove(wish)
            self._grant()  # Whoever stood behind may fit.

    def _no_room(self, wish: _Wish) -> NoRoomError:
        before = self._waiting[: self._waiting.index(wish)]
        missing = wish.amount + sum(each.amount for each in before) - (self.total - self.in_use)
        of_caller = not self._fits_share(wish)
        if of_caller:
            own = sum(each.amount for each in before if each.caller == wish.caller)
            missing = max(missing, self.of(wish.caller) + own + wish.amount - self.share)
        return NoRoomError(of_caller=of_caller, retry_after_s=self._pace.delay_s(max(0, missing)))


class Held:
    """What somebody holds of an allowance; made by `Allowance.hold`.

    Attributes:
        amount: How much it is.
    """

    def __init__(self, allowance: Allowance, caller: str) -> None:
        self.amount = 0
        self._allowance = allowance
        self._caller = caller
        self._taken_s = 0.0

    async def grow(self, to: int, patience_s: float) -> None:
        """Waits until it is `to` at least.

        Raises:
            NoRoomError: There was no room for so long.
        """
        if to > self.amount:
            self._taken_s = await self._allowance.take(self._caller, to - self.amount, patience_s)
            self.amount = to

    def grow_at_once(self, to: int) -> bool:
        """Makes it `to` at least if there is room that nobody waits for, and says whether it is."""
        if to > self.amount:
            taken_s = self._allowance.take_at_once(self._caller, to - self.amount)
            if taken_s is None:
                return False
            self._taken_s, self.amount = taken_s, to
        return True

    def shrink(self, to: int) -> None:
        """Gives back what is beyond `to`."""
        if to < self.amount:
            self._allowance.give(self._caller, self.amount - to, self._taken_s)
            self.amount = to
