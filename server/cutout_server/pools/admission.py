"""The slots of one device: who gets one, of how many, and when those that are turned away are to come back."""

import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from cutout_common.pace import MIN_DELAY_S, Pace

from cutout_server.errors import OverloadedError, QuotaError

# Whoever was told a delay may be late by as much again and by so many seconds.
GRACE_S = 1.0
# One slot in so many is never a single caller's: whoever comes next finds one, however long those of others take.
RESERVE = 4


class Who(NamedTuple):
    """Who a slot is promised to: one caller at one address."""

    party: str
    peer: str = ""


@dataclass(frozen=True)
class _Promise:
    due_s: float
    expires_s: float
    of_share: bool


class Admission:
    """Admits a bounded number of requests. Those who are turned away stand in a queue that costs nothing.

    Each is told the delay after which a slot should have become free for it, and from then on one is held for it for a
    while. So whoever obeys gets in, though others ask for every slot the moment that it is given back. At most half of
    the slots are held, and each caller at each address has one promise at a time. Likewise within the slots that one
    party may have; see `Shares`.

    Args:
        device: Whose slots they are, for errors.
        capacity: How many.
        clock: Seconds.
        quota: The setting that bounds what one party has of them, for errors.
    """

    def __init__(
        self,
        device: str,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        quota: str = "requests_in_hand",
    ) -> None:
        self.capacity = capacity
        self.requests = 0
        self._device = device
        self._quota = quota
        self._clock = clock
        self._shares = Shares(capacity)
        self._promises: dict[Who, _Promise] = {}  # In the order in which they were made.
        self._pace = Pace(0.1, clock=clock)

    def expects(self, caller: Who) -> bool:
        """Whether a slot is held for a caller now, since it was told to come back by this time."""
        promise = self._promises.get(caller)
        return promise is not None and promise.due_s <= self._clock() <= promise.expires_s

    def has_room(self, caller: Who, quota: int = 0) -> bool:
        """Whether a request would be admitted; see `admit`."""
        return self._is_free(caller) and self._has_share(caller, self._bound(caller.party, quota))

    def admit(self, caller: Who, quota: int = 0) -> None:
        """Takes a slot; `leave` gives it back.

        Args:
            caller: At which address.
            quota: How many slots its party may have, beside its share; 0 if nothing is said.

        Raises:
            OverloadedError: All are taken, or held for others.
            QuotaError: The party has as many as it may.
        """
        if not self._is_free(caller):
            delay_s = self._promise(caller, of_share=False)
            raise OverloadedError(
                f"{self._device} has {self.requests} requests in hand; try again in {delay_s:.1f} s",
                retry_after_s=delay_s,
            )
        bound = self._bound(caller.party, quota)
        if not self._has_share(caller, bound):
            delay_s = self._promise(caller, of_share=True)
            own = self._shares.of(caller.party)
            raise QuotaError(self._quota, bound, use=own, retry_after_s=delay_s)
        if self.expects(caller):
            del self._promises[caller]
        if not self.requests:
            self._pace.began()
        self.requests += 1
        self._shares.take(caller.party)

    def leave(self, worked_s: float, party: str) -> None:
        """Gives a party's slot back after `worked_s` seconds of holding it."""
        self._pace.given_back(worked_s, self.requests)
        self.requests -= 1
        self._shares.give(party)

    def _is_free(self, caller: Who) -> bool:
        self._forget_expired()
        held = self._held(lambda key, promise: key != caller and not promise.of_share)
        return self._fits(caller, self.requests, held, self.capacity)

    def _has_share(self, caller: Who, bound: int) -> bool:
        held = self._held(lambda key, _: key != caller and key.party == caller.party)
        return self._fits(caller, self._shares.of(caller.party), held, bound)

    def _fits(self, caller: Who, taken: int, held: int, most: int) -> bool:
        return taken + (0 if self.expects(caller) else min(held, most // 2)) < most

    def _held(self, counts: Callable[[Who, _Promise], bool]) -> int:
        now_s = self._clock()
        return sum(promise.due_s <= now_s and counts(key, promise) for key, promise in self._promises.items())

    def _bound(self, party: str, quota: int) -> int:
        waiting = {key.party for key, promise in self._promises.items() if not promise.of_share}
        return self._shares.bound(party, quota, waiting)

    def _forget_expired(self) -> None:
        now_s = self._clock()
        self._promises = {key: promise for key, promise in self._promises.items() if promise.expires_s >= now_s}

    def _promise(self, caller: Who, *, of_share: bool) -> float:
        """How long to wait until a slot is free for a caller: one becomes free for each request that is done."""
        now_s = self._clock()
        known = self._promises.get(caller)
        if known is not None and known.due_s > now_s:
            return max(MIN_DELAY_S, known.due_s - now_s)
        ahead = sum(key != caller and (key.party == caller.party or not of_share) for key in self._promises)
        # One whose slot was not free in time is the next. Of a share, only the party's own slots become free.
        slots = 1 if known else ahead + 1
        delay_s = self._pace.delay_s(slots * (self.requests / max(1, self._shares.of(caller.party)) if of_share else 1))
        if known is not None or len(self._promises) < self.capacity:
            due_s = known.due_s if known else now_s + delay_s
            self._promises[caller] = _Promise(due_s, now_s + 2 * delay_s + GRACE_S, of_share)
        return delay_s


class Shares:
    """Counts slots by the party that has them. Belongs to the event loop.

    Args:
        capacity: How many slots there are.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken: Counter[str] = Counter()

    def of(self, party: str) -> int:
        """How many a party has."""
        return self._taken[party]

    def bound(self, party: str, quota: int, waiting: AbstractSet[str]) -> int:
        """How many a party may have: three quarters of all; its equal share while others were turned away.

        Args:
            party: Which one.
            quota: What is said of it by a setting; 0 for nothing.
            waiting: Who was turned away and is expected back.
        """
        bound = self._capacity - self._capacity // RESERVE
        if waiting - {party}:
            bound = min(bound, max(1, self._capacity // len({party, *waiting, *self._taken})))
        return min(bound, quota or bound)

    def take(self, party: str) -> None:
        """A party has one more."""
        self._taken[party] += 1

    def give(self, party: str) -> None:
        """A party has one less."""
        self._taken[party] -= 1
        if not self._taken[party]:
            del self._taken[party]
