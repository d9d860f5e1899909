"""Whether joining jobs into one pass pays on this device: measured, not assumed."""

import math
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

# A larger pass must take this much less time for each job to be worth the longer wait of its first one,
WORTH = 0.95
# and one that takes longer than this so much less for each doubling: whoever comes meanwhile waits for the whole of it.
SHORT_S = 0.05
WORTH_OF_LONG = 0.85
# Weight of the newest pass in the mean.
NEWEST = 0.3
# After so many passes what was measured is doubted once, by a larger pass or a smaller one in turn. Each doubt without
# cause doubles their number, up to the second: a larger pass that does not pay is one that others wait for.
DOUBT_AFTER, DOUBT_AFTER_MOST = 32, 1024


@dataclass
class _Times:
    """What passes of one kind took.

    Attributes:
        per_job_s: Mean seconds for a job, by the size of the pass rounded down to a power of two.
        passes: Since the last doubt.
        doubt_after: The pass of that number is the next doubt.
        doubts: How many there were.
        trusted: The best size at the last of them.
    """

    per_job_s: dict[int, float] = field(default_factory=dict)
    passes: int = 0
    doubt_after: int = DOUBT_AFTER
    doubts: int = 0
    trusted: int = 0

    def best(self) -> int:
        """The size that pays most; the smallest one measured where none does."""
        best, *larger = sorted(self.per_job_s)
        for size in larger:
            if self.per_job_s[size] < _worth(best, size, self.per_job_s[size]) * self.per_job_s[best]:
                best = size
        return best


class BatchSizing:
    """Learns for each kind of pass how many jobs to join. Joins all until it has seen that this does not pay."""

    def __init__(self) -> None:
        self._times: defaultdict[Hashable, _Times] = defaultdict(_Times)

    def measured(self, kind: Hashable, jobs: int, seconds: float) -> None:
        """A pass of so many jobs took so long."""
        times, size = self._times[kind], _rounded(jobs)
        mean = times.per_job_s.get(size)
        newest = seconds / jobs
        times.per_job_s[size] = newest if mean is None else mean + NEWEST * (newest - mean)
        times.passes += 1
        if times.passes == times.doubt_after:
            best = times.best()
            times.doubt_after = min(2 * times.doubt_after, DOUBT_AFTER_MOST) if best == times.trusted else DOUBT_AFTER
            times.passes, times.doubts, times.trusted = 0, times.doubts + 1, best

    def best(self, kind: Hashable, waiting: int) -> int:
        """How many of the jobs that wait to join: all, unless a smaller pass was seen to be worth as much."""
        times = self._times[kind]
        if not times.per_job_s:
            return waiting
        best = times.best()
        if times.passes == times.doubt_after - 1:
            return min(waiting, 2 * best) if times.doubts % 2 else max(1, min(best, waiting) // 2)
        return waiting if best == max(times.per_job_s) else min(best, waiting)


def _worth(size: int, larger: int, per_job_s: float) -> float:
    """The share of a smaller pass's time for each job that a larger one's has to be below."""
    return WORTH if larger * per_job_s <= SHORT_S else WORTH_OF_LONG ** math.log2(larger / size)


def _rounded(jobs: int) -> int:
    return 1 << (jobs.bit_length() - 1)
