"""Interleaved rounds and what is made of their times."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True)
class Sample:
    """What several measurements say together.

    Attributes:
        median: In the unit of what was measured, as are the quartiles.
        low: Lower quartile.
        high: Upper quartile.
        n: How many there were.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        """Raises ValueError when there are none."""
        if not values:
            raise ValueError("a sample needs at least one value")
        return cls(statistics.median(values), quantile(values, 0.25), quantile(values, 0.75), len(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share in [0, 1] of all lies, interpolated linearly (Hyndman and Fan 1996, type 7)."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int, warmups: int = 1) -> dict[str, list[float]]:
    """Lets each have its turn in every round, so that what else the machine does meets all of them alike.

    Args:
        contenders: Each does its work once and answers what it took, in seconds or whatever else is compared.
        rounds: Turns of each that count.
        warmups: Turns of each before them that do not.

    Returns:
        By contender, one value a round.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-warmups, rounds):
        for name, contender in contenders.items():
            value = contender()
            if turn >= 0:
                taken[name].append(value)
    return taken


def ratio(base: Sequence[float], values: Sequence[float]) -> Sample:
    """How many times as fast as the base, round by round, so that a slow round weighs on neither."""
    return Sample.of([one / other for one, other in zip(base, values, strict=True)])


def rate(ends: Sequence[float], skip: int) -> float:
    """Events a second from the moments at which they ended, in seconds; the first `skip` are not counted.

    Counting between two ends, and not in a window, loses no fraction of an event at either edge.
    """
    ordered = sorted(ends)
    counted = list(islice(ordered, skip, None))
    if len(counted) < 2:
        raise ValueError(f"a rate needs two events after the first {skip}, got {len(ordered)}")
    return (len(counted) - 1) / (counted[-1] - counted[0])


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, answering the seconds that it took."""

    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run
