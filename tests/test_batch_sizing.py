"""How many jobs are joined, by what passes were measured to take."""

import pytest
from cutout_server.pools.batch_sizing import DOUBT_AFTER, BatchSizing


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


def test_what_was_measured_is_doubted_both_ways():
    """A first pass that happened to be slow, or a larger one that was, is not believed for ever."""
    sizing = measured(jobs_1=0.02, jobs_4=0.04)
    asked = []
    for _ in range(2 * DOUBT_AFTER):
        asked.append(sizing.best("decode", 8))
        sizing.measured("decode", 4, 0.04)
    assert sorted(set(asked)) == [2, 8]
    assert asked.count(2) == 1
    sizing = measured(jobs_1=0.01, jobs_4=0.04)
    asked = []
    for _ in range(2 * DOUBT_AFTER):
        asked.append(sizing.best("decode", 8))
        sizing.measured("decode", 1, 0.01)
    assert sorted(set(asked)) == [1, 2]
    assert asked.count(2) == 1
