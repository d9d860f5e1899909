"""Whether joining jobs into one pass pays on this device: measured, not assumed."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

# A larger pass must take this much less time for each job to be worth the longer wait of its first one.
WORTH = 0.95
# Weight of the newest pass in the mean.
NEWEST = 0.3
# After so many passes what was measured is doubted once.
DOUBT_AFTER = 64


@dataclass
class _Times:
    """Mean seconds for a job, by the size of the pass rounded down to a power of two."""

    per_job_s: dict[int, float] = field(default_factory=dict)
    passes: int = 0


class BatchSizing:
    """Learns for each kind of pass how many jobs to join. Joins all until it has seen that this does not pay."""

    def __init__(self) -> None:
        self._times: defaultdict[Hashable, _Times] = defaultdict(_Times)

    def measured(self, kind: Hashable, jobs: int, seconds: float) -> None:
        """A pass of so many jobs took so long."""
        times, size = self._times[kind], _rounded(jobs)
        times.passes += 1
        mean = times.per_job_s.get(size)
        newest = seconds / jobs
        times.per_job_s[size] = newest if mean is None else mean + NEWEST * (newest - mean)

    def best(self, kind: Hashable, waiting: int) -> int:
        """How many of the jobs that wait to join: all, unless a smaller pass was seen to take as little for each."""
        times = self._times[kind]
        if not times.per_job_s or times.passes % DOUBT_AFTER == DOUBT_AFTER - 1:
            return waiting
        best, *larger = sorted(times.per_job_s)
        for size in larger:
            if times.per_job_s[size] < WORTH * times.per_job_s[best]:
                best = size
        return waiting if best == max(times.per_job_s) else min(best, waiting)


def _rounded(jobs: int) -> int:
    return 1 << (jobs.bit_length() - 1)
