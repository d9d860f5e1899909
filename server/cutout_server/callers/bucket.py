"""A token bucket: so much a second on average, and some of it at once."""

import math
import time
from collections.abc import Callable

BURST_S = 10.0  # What ten seconds bring may be taken at once.
_ROUNDING = 1e-6  # Of a clock's seconds, as a share of what is taken.


class Bucket:
    """Fills at a rate, up to what `BURST_S` seconds bring, and one at least; begins full.

    Args:
        per_s: The rate.
        clock: Seconds.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._per_s = per_s
        self._level = self._most
        self._filled_s = clock()

    @property
    def is_full(self) -> bool:
        """Whether it is as if nothing had ever been taken."""
        self._fill()
        return self._level >= self._most

    def change(self, per_s: float) -> None:
        """Fills at another rate from now on."""
        self._fill()
        self._per_s = per_s
        self._level = min(self._level, self._most)

    def take(self, amount: float) -> float:
        """Takes an amount if it is there, and returns 0; else the seconds after which it will be, whole milliseconds.

        What is more than the bucket ever holds is taken from a full one, which owes the rest: no amount is never there.
        """
        self._fill()
        needed = min(amount, self._most)
        if self._level < needed * (1 - _ROUNDING):
            return math.ceil((needed - self._level) / self._per_s * 1000) / 1000
        self._level -= amount
        return 0.0

    def put_back(self, amount: float) -> None:
        """Undoes a `take`."""
        self._level += amount  # What is too much by now is poured away when it fills.

    @property
    def _most(self) -> float:
        return max(1.0, self._per_s * BURST_S)

    def _fill(self) -> None:
        now_s = self._clock()
        self._level = min(self._most, self._level + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
