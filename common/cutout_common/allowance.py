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
    """The caller who was given least goes first, and whoever has used up its own share holds nobody up.

    Fair queueing (Demers, Keshav, Shenker 1989): a thousand wishes of one caller do not stand before the first of
    another. Belongs to an event loop.

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
        self._given: dict[str, int] = {}
        self._waiting: list[_Wish] = []
        self._short = asyncio.Event()

    @contextmanager
    def hold(self, caller: str) -> Iterator["Held"]:
        """Nothing at first, to which one can add for as long as the block lasts."""
        held = Held(self, caller)
        try:
            yield held
        finally:
            held.close()

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
        self._enter(caller)
        self._change(caller, amount)
        return self._clock()

    async def short(self) -> None:
        """Returns once somebody waits who is not kept waiting by its own share."""
        await self._short.wait()

    async def take(self, caller: str, amount: int, patience_s: float) -> float:
        """For `Held`: waits for room and returns the time at which there was."""
        wish = _Wish(caller, amount, asyncio.get_running_loop().create_future())
        self._enter(caller)
        self._waiting.append(wish)
        self._grant()
        try:
            if not wish.granted.done():
                await asyncio.wait({wish.granted}, timeout=None if patience_s == float("inf") else patience_s)
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

    def _enter(self, caller: str) -> None:
        """Whoever is new has been given as much as whoever has been given least."""
        self._given.setdefault(caller, min(self._given.values(), default=0))

    def _change(self, caller: str, amount: int) -> None:
        if not self.in_use:
            self._pace.began()
        self.in_use += amount
        self._by_caller[caller] += amount
        self._given[caller] += max(0, amount)

    def _fits_share(self, wish: _Wish) -> bool:
        return self._by_caller[wish.caller] + wish.amount <= self.share

    def _grant(self) -> None:
        """Gives what there is to those whose turn it is."""
        while (wish := self._next()) and self.in_use + wish.amount <= self.total:
            self._waiting.remove(wish)
            self._change(wish.caller, wish.amount)
            wish.granted.set_result(None)
        # However small the others are: they would keep it waiting for ever.
        self._short.set() if wish else self._short.clear()
        self._forget()

    def _next(self) -> _Wish | None:
        fitting = (wish for wish in self._waiting if self._fits_share(wish))
        return min(fitting, key=lambda wish: (self._given[wish.caller], self._by_caller[wish.caller]), default=None)

    def _forget(self) -> None:
        """Who neither holds nor wants anything starts anew."""
        wanting = {wish.caller for wish in self._waiting}
        for caller in [each for each, amount in self._by_caller.items() if not amount]:
            del self._by_caller[caller]
        for caller in self._given.keys() - self._by_caller.keys() - wanting:
            del self._given[caller]

    def _withdraw(self, wish: _Wish) -> None:
        if wish.granted.done():
            self.give(wish.caller, wish.amount, self._clock())
        else:
            self._waiting.remove(wish)
            self._grant()  # Whoever stood behind may fit.

    def _no_room(self, wish: _Wish) -> NoRoomError:
        before = self._waiting[: self._waiting.index(wish)]
        missing = self.in_use + sum(each.amount for each in before) + wish.amount - self.total
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
        self._closed = False

    async def grow(self, to: int, patience_s: float) -> None:
        """Waits until it is `to` at least.

        Raises:
            NoRoomError: There was no room for so long.
        """
        if to > self.amount and not self._closed:
            more = to - self.amount
            self._taken_s = await self._allowance.take(self._caller, more, patience_s)
            self.amount += more
            if self._closed:  # Meanwhile.
                self.shrink(0)

    def grow_at_once(self, to: int) -> bool:
        """Makes it `to` at least if there is room that nobody waits for, and says whether it is."""
        if to > self.amount:
            taken_s = self._allowance.take_at_once(self._caller, to - self.amount)
            if taken_s is None:
                return False
            self._taken_s, self.amount = taken_s, to
        return True

    def close(self) -> None:
        """Gives all back; what others still do for whoever held it counts no more."""
        self._closed = True
        self.shrink(0)

    def shrink(self, to: int) -> None:
        """Gives back what is beyond `to`."""
        if to < self.amount:
            self._allowance.give(self._caller, self.amount - to, self._taken_s)
            self.amount = to
