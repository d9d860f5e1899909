"""The slots of one device: how many requests it has in hand, and when those that it turns away are to come back."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from cutout_common.pace import MIN_DELAY_S, Pace

from cutout_server.errors import OverloadedError

# Whoever was told a delay may be late by as much again and by so many seconds.
GRACE_S = 1.0


@dataclass(frozen=True)
class _Promise:
    due_s: float
    expires_s: float


def who(caller: str, peer: str) -> str:
    """What promises are kept to: one caller at one address."""
    return f"{caller} {peer}"


class Admission:
    """Admits a bounded number of requests. Those who are turned away stand in a queue that costs nothing.

    Each is told the delay after which a slot should have become free for it, and from then on one is held for it for a
    while. So whoever obeys gets in, though others ask for every slot the moment that it is given back. At most half of
    the slots are held, and each caller at each address has one promise at a time.

    Args:
        device: Whose slots they are, for errors.
        capacity: How many.
        clock: Seconds.
    """

    def __init__(self, device: str, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.requests = 0
        self._device = device
        self._clock = clock
        self._promises: dict[str, _Promise] = {}  # In the order in which they were made.
        self._pace = Pace(0.1, clock=clock)

    def expects(self, caller: str) -> bool:
        """Whether a slot is held for a caller by now."""
        promise = self._promises.get(caller)
        return promise is not None and promise.due_s <= self._clock() <= promise.expires_s

    def has_room(self, caller: str) -> bool:
        """Whether a request would be admitted."""
        now_s = self._clock()
        self._promises = {key: promise for key, promise in self._promises.items() if promise.expires_s >= now_s}
        held = sum(promise.due_s <= now_s for key, promise in self._promises.items() if key != caller)
        if not self.expects(caller):
            return self.requests + min(held, self.capacity // 2) < self.capacity
        return self.requests < self.capacity

    def admit(self, caller: str) -> None:
        """Takes a slot; `leave` gives it back.

        Args:
            caller: As `who` names it.

        Raises:
            OverloadedError: All are taken, or held for others.
        """
        if not self.has_room(caller):
            delay_s = self._promise(caller)
            raise OverloadedError(
                f"{self._device} has {self.requests} requests in hand; try again in {delay_s:.1f} s",
                retry_after_s=delay_s,
            )
        if self.expects(caller):
            del self._promises[caller]
        if not self.requests:
            self._pace.began()
        self.requests += 1

    def leave(self, worked_s: float) -> None:
        """Gives a slot back after `worked_s` seconds of holding it."""
        self._pace.given_back(worked_s, self.requests)
        self.requests -= 1

    def _promise(self, caller: str) -> float:
        """How long to wait until a slot is free for a caller: one becomes free for each request that is done."""
        now_s = self._clock()
        known = self._promises.get(caller)
        if known is not None and known.due_s > now_s:
            return max(MIN_DELAY_S, known.due_s - now_s)
        ahead = sum(key != caller for key in self._promises)
        # One whose slot was not free in time is the next.
        delay_s = self._pace.delay_s(1 if known else ahead + 1)
        if known is not None or len(self._promises) < self.capacity:
            due_s = known.due_s if known else now_s + delay_s
            self._promises[caller] = _Promise(due_s, now_s + 2 * delay_s + GRACE_S)
        return delay_s
