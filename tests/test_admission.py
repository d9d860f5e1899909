"""Slots: bounded, and free in time for those who were turned away and come back when they were told to."""

import pytest
from cutout_server.errors import OverloadedError, QuotaError
from cutout_server.pools.admission import Admission, Who


class Clock:
    """Time that the test makes."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def full(clock: Clock, capacity: int = 4, seconds_each: float = 1.0) -> Admission:
    """All slots taken, after so many requests that the time of each is known."""
    slots = Admission("cpu", capacity, clock)
    for number in range(capacity):
        slots.admit(Who(f"regular-{number}", ""))
    for _ in range(100):
        turnover(slots, clock, seconds_each)
    return slots


def turnover(slots: Admission, clock: Clock, seconds: float) -> None:
    """A request is done, and whoever made it wants the next slot at once."""
    clock.now += seconds
    slots.leave(seconds * slots.capacity, "regular-0")
    slots.requests += 1
    slots._shares.take("regular-0")


def refused(slots: Admission, caller: str) -> float:
    with pytest.raises(OverloadedError) as error:
        slots.admit(Who(caller, ""))
    return error.value.retry_after_s


def test_as_many_as_there_are_seats(clock: Clock):
    """One more is turned away, and a slot that is given back can be taken."""
    slots = Admission("cpu", 2, clock)
    slots.admit(Who("a", ""))
    slots.admit(Who("b", ""))
    refused(slots, "c")
    slots.leave(0.1, "a")
    slots.admit(Who("d", ""))
    assert slots.requests == 2


def test_each_is_told_when_its_turn_comes(clock: Clock):
    """One request's time for each that stands before it; asking again meanwhile changes nothing."""
    slots = full(clock)
    assert [refused(slots, name) for name in "abc"] == pytest.approx([1, 2, 3], rel=0.01)
    clock.now += 0.5
    assert refused(slots, "b") == pytest.approx(1.5, rel=0.01)
    assert refused(slots, "a") == pytest.approx(0.5, rel=0.01)


def test_whoever_obeys_gets_in_before_those_who_ask_all_the_time(clock: Clock):
    """Once its time has come, the next slot that is given back is held for it."""
    slots = full(clock)
    delay_s = refused(slots, "obedient")
    clock.now += delay_s
    slots.leave(4.0, "regular-0")
    for _ in range(3):
        refused(slots, "greedy")
    slots.admit(Who("obedient", ""))
    assert slots.requests == 4


def test_a_crowd_gets_in_one_by_one(clock: Clock):
    """Many callers without pause and half as many slots: each is served, and as often as any other."""
    slots = Admission("cpu", 8, clock)
    wakes = dict.fromkeys((f"caller-{number}" for number in range(16)), clock.now)
    served = dict.fromkeys(wakes, 0)
    inside: list[str] = []
    attempts = 0
    for _ in range(40_000):
        clock.now += 0.01
        for name, wakes_s in wakes.items():
            if name not in inside and wakes_s <= clock.now:
                attempts += 1
                try:
                    slots.admit(Who(name, ""))
                    inside.append(name)
                except OverloadedError as error:
                    wakes[name] = clock.now + error.retry_after_s
        if round(clock.now * 100) % 25 == 0 and inside:  # The device finishes one request each quarter of a second.
            done = inside.pop(0)
            served[done] += 1
            slots.leave(0.25 * (len(inside) + 1), done)
    total = sum(served.values())
    assert total > 0.98 * 1600
    assert min(served.values()) > 0.7 * total / 16
    assert attempts < 4 * total


def test_a_seat_is_not_held_for_ever(clock: Clock):
    """Who was turned away and does not come back keeps nobody out."""
    slots = full(clock)
    delay_s = refused(slots, "gone")
    clock.now += delay_s
    slots.leave(4.0, "regular-0")
    refused(slots, "next")
    clock.now += delay_s + 1.1
    slots.admit(Who("next", ""))


def test_half_of_the_seats_are_never_held(clock: Clock):
    """However many were turned away, a device that has run dry takes whoever comes."""
    slots = full(clock)
    for number in range(4):
        refused(slots, f"gone-{number}")
    clock.now += 4.1
    for number in range(4):
        slots.leave(4.0, f"regular-{number}")
    for name in ("one", "two"):
        slots.admit(Who(name, ""))
    refused(slots, "three")
    assert slots.requests == 2


def test_promises_are_bounded(clock: Clock):
    """No more are remembered than there are slots; the others are told a time all the same."""
    slots = full(clock)
    delays = [refused(slots, f"caller-{number}") for number in range(200)]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(5, rel=0.01)


def beyond_its_share(slots: Admission, caller: Who, quota: int = 0) -> QuotaError:
    with pytest.raises(QuotaError) as error:
        slots.admit(caller, quota)
    assert error.value.metadata["quota"] == "requests_in_hand"
    return error.value


def test_nobody_has_all_slots(clock: Clock):
    """A quarter is never one party's, so that whoever comes next finds a slot; fewer than four are shared by nobody."""
    slots = Admission("cpu", 8, clock)
    for number in range(6):
        slots.admit(Who("many", str(number)))
    assert beyond_its_share(slots, Who("many", "6")).metadata["bound"] == "6"
    assert slots.has_room(Who("other", ""))
    slots.admit(Who("other", ""))
    few = Admission("cpu", 3, clock)
    for number in range(3):
        few.admit(Who("many", str(number)))
    refused(few, "many")


def test_a_quota_is_less_than_a_share(clock: Clock):
    """What a setting says of a party holds for it alone."""
    slots = Admission("cpu", 8, clock)
    slots.admit(Who("small", ""), 1)
    error = beyond_its_share(slots, Who("small", ""), 1)
    assert (error.metadata["bound"], error.metadata["use"]) == ("1", "1")
    assert error.retry_after_s >= 0.1
    slots.admit(Who("other", ""))


def test_while_others_wait_each_has_an_equal_share(clock: Clock):
    """What those give back who have more goes to whoever was turned away, at whatever time it comes."""
    slots = Admission("cpu", 8, clock)
    for number in range(6):
        slots.admit(Who("many", str(number)))
    for number in range(2):
        slots.admit(Who("more", str(number)))
    refused(slots, "new")
    for _ in range(3):
        clock.now += 0.01
        slots.leave(1.0, "many")
        beyond_its_share(slots, Who("many", "again"))  # It has as many as the two others may have, or more.
    for _ in range(2):
        slots.admit(Who("new", ""))
    clock.now += 120.0  # Nobody waits any more.
    slots.admit(Who("many", "again"))


def test_within_a_share_whoever_obeys_gets_in(clock: Clock):
    """Of a party's own addresses, the one that waits as long as it was told is before those who ask all the time."""
    slots = Admission("cpu", 8, clock)
    for number in range(6):
        slots.admit(Who("many", str(number)))
    delay_s = beyond_its_share(slots, Who("many", "obedient")).retry_after_s
    clock.now += delay_s
    slots.leave(1.0, "many")
    beyond_its_share(slots, Who("many", "greedy"))
    slots.admit(Who("other", ""))  # Nothing is held from others for it.
    slots.admit(Who("many", "obedient"))
