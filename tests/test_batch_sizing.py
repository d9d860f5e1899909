"""How many jobs are joined, by what passes were measured to take."""

import pytest
from cutout_server.pools.batch_sizing import DOUBT_AFTER, DOUBT_AFTER_MOST, BatchSizing


def measured(**passes: float) -> BatchSizing:
    """After one pass of each size, `jobs_4=0.2` being one of four jobs that took so many seconds."""
    sizing = BatchSizing()
    for name, seconds in passes.items():
        sizing.measured("decode", int(name.removeprefix("jobs_")), seconds)
    return sizing


@pytest.mark.parametrize(
    ("passes", "best"),
    [
        ({}, 16),
        ({"jobs_1": 0.01, "jobs_4": 0.036}, 16),
        ({"jobs_1": 0.01, "jobs_4": 0.039}, 1),
        ({"jobs_1": 0.02, "jobs_2": 0.03, "jobs_4": 0.07}, 2),
        ({"jobs_1": 0.02, "jobs_4": 0.07}, 1),
        ({"jobs_1": 0.1, "jobs_8": 0.48}, 16),
        ({"jobs_1": 0.1, "jobs_8": 0.5}, 1),
    ],
    ids=["nothing known", "short, pays", "short, does not", "only two", "long", "long, pays", "long, does not"],
)
def test_a_long_pass_must_save_more_than_a_short_one(passes: dict[str, float], best: int):
    """For whoever comes meanwhile waits until its end."""
    assert measured(**passes).best("decode", 16) == best


def doubts(sizing: BatchSizing, jobs: int, seconds: float, passes: int) -> list[tuple[int, int]]:
    """Of so many passes of a size, when another size was asked for than at first, and which."""
    usual, asked = sizing.best("decode", 8), []
    for number in range(1, passes + 1):
        if (best := sizing.best("decode", 8)) != usual:
            asked.append((number, best))
        sizing.measured("decode", jobs, seconds)
    return asked


def test_what_was_measured_is_doubted_both_ways():
    """A first pass that happened to be slow, or a larger one that was, is not believed for ever."""
    assert [size for _, size in doubts(measured(jobs_1=0.02, jobs_4=0.04), 4, 0.04, 2 * DOUBT_AFTER)] == [2]
    alone = measured(jobs_1=0.01, jobs_4=0.04)
    assert [size for _, size in doubts(alone, 1, 0.01, 4 * DOUBT_AFTER)] == [2]


def test_doubts_without_cause_grow_rare_and_a_change_makes_them_frequent_again():
    """Else one pass of 64 would make those wait twice as long who share a device that gains from no company."""
    sizing = measured(jobs_1=0.01, jobs_4=0.04)
    assert len(doubts(sizing, 1, 0.01, 64 * DOUBT_AFTER)) <= 4
    assert doubts(sizing, 1, 0.01, 2 * DOUBT_AFTER_MOST)
    for _ in range(DOUBT_AFTER_MOST):
        sizing.measured("decode", 8, 0.01)
    assert sizing.best("decode", 8) == 8
    assert len(doubts(sizing, 8, 0.01, 8 * DOUBT_AFTER)) >= 2
