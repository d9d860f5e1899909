"""How long it takes until some of what is all in use becomes free: an estimate from what was measured."""

import time
from collections.abc import Callable

MIN_DELAY_S, MAX_DELAY_S = 0.1, 60.0
# Weight of the newest in the means.
NEWEST = 0.1


class Pace:
    """Watches something being given back: seats, bytes, pixels, connections.

    By Little's law, when `in_use` units are held for `held_s` seconds each, one becomes free every `held_s / in_use`.
    While none becomes free, the time since the last one that did says more than the mean of those before.

    Args:
        seconds_per_unit: What is taken for true before anything was measured.
        units: As many as come back together, likewise.
        clock: Seconds.
    """

    def __init__(
        self, seconds_per_unit: float, units: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds_per_unit = seconds_per_unit
        self._units = units
        self._clock = clock
        self._last_s = clock()

    def began(self) -> None:
        """The first of it was taken; so long nothing could be given back."""
        self._last_s = self._clock()

    def given_back(self, held_s: float, in_use: float, units: float = 1.0) -> None:
        """Some units were given back after `held_s` seconds; until then `in_use` were, these among them."""
        self._last_s = self._clock()
        self._seconds_per_unit += NEWEST * (held_s / in_use - self._seconds_per_unit)
        self._units += NEWEST * (units - self._units)

    def delay_s(self, units: float = 1.0) -> float:
        """Seconds until so many units should have become free; bounded."""
        since_last_s = self._clock() - self._last_s
        each_s = max(self._seconds_per_unit, since_last_s / self._units)
        return min(MAX_DELAY_S, max(MIN_DELAY_S, each_s * units))
