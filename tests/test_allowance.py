"""What callers share: bounded in all and for each, in turn, and with a delay that holds when it is refused."""

import asyncio
import contextlib

import pytest
from cutout_common.allowance import Allowance, Held, NoRoomError
from cutout_common.pace import MAX_DELAY_S, Pace
from waiting import PATIENCE_S


class Clock:
    """Time that the test makes."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


async def nothing_more() -> None:
    """Returns when all that could go on has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


def grow(held: Held, to: int) -> "asyncio.Task[None]":
    return asyncio.ensure_future(held.grow(to, PATIENCE_S))


async def test_more_wait_until_there_is_room():
    """In the order in which they came, however small those behind are."""
    room = Allowance(10, 10)
    with room.hold("a") as first, room.hold("b") as large, room.hold("c") as small:
        await first.grow(8, PATIENCE_S)
        waiting = [grow(large, 5), grow(small, 1)]
        await nothing_more()
        assert not any(each.done() for each in waiting)
        first.shrink(5)
        await waiting[0]
        assert not waiting[1].done()
        large.shrink(4)
        await waiting[1]
        assert room.in_use == 10
    assert room.in_use == 0


async def test_one_caller_holds_no_more_than_its_share():
    """It waits for itself, and others pass by."""
    room = Allowance(10, 5)
    with room.hold("greedy") as one, room.hold("greedy") as two, room.hold("other") as other:
        await one.grow(4, PATIENCE_S)
        waiting = grow(two, 2)
        await nothing_more()
        await other.grow(5, PATIENCE_S)
        assert (room.of("greedy"), waiting.done()) == (4, False)
        one.shrink(3)
        await waiting
        assert room.of("greedy") == 5


async def test_the_caller_who_was_given_least_is_next():
    """A crowd of one caller's wishes does not stand before the first one of another."""
    room = Allowance(2, 2)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(room.hold("crowd")) for _ in range(20)]
        waiting = [grow(each, 1) for each in crowd]
        await nothing_more()
        assert sum(each.done() for each in waiting) == 2
        late = stack.enter_context(room.hold("late"))
        its = grow(late, 1)
        await nothing_more()
        crowd[0].shrink(0)
        await its
        assert sum(each.done() for each in waiting) == 2
        for held, task in zip(crowd, waiting, strict=True):
            await task
            held.shrink(0)


@pytest.mark.parametrize("granted", [False, True])
async def test_who_leaves_the_queue_leaves_nothing_behind(granted: bool):
    """Whether its turn had come in that very moment or not."""
    room = Allowance(10, 10)
    with room.hold("a") as first, room.hold("b") as second:
        await first.grow(10, PATIENCE_S)
        waiting = grow(second, 5)
        await nothing_more()
        if granted:
            first.shrink(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert room.in_use == (0 if granted else 10)


@pytest.mark.parametrize(("share", "caller", "of_caller"), [(10, "b", False), (6, "a", True)])
async def test_a_refusal_says_whose_room_and_when(share: int, caller: str, of_caller: bool):
    """The delay is the time that as much takes to be given back as is missing, by what was measured."""
    clock = Clock()
    room = Allowance(10, share, clock)
    for _ in range(200):  # Five units in use for two seconds: one of them is given back every 0.4 s.
        with room.hold("x") as held:
            await held.grow(5, PATIENCE_S)
            clock.now += 2
    with room.hold("a") as first, room.hold(caller) as second:
        await first.grow(6, PATIENCE_S)
        with pytest.raises(NoRoomError) as refused:
            await second.grow(6, 0)
    assert refused.value.of_caller is of_caller
    missing = 6 if of_caller else 2
    assert refused.value.retry_after_s == pytest.approx(missing * 0.4)


async def test_room_that_comes_after_the_end_is_given_back():
    """Another may still wait for room for whoever has left: an answer, say, that is made for several."""
    room = Allowance(10, 10)
    with room.hold("a") as first:
        await first.grow(8, PATIENCE_S)
        with room.hold("b") as late:
            await late.grow(1, PATIENCE_S)
            waiting = grow(late, 5)
            await nothing_more()
        assert room.of("b") == 0
    await waiting
    assert (late.amount, room.in_use) == (0, 0)


def test_the_delay_is_what_was_measured():
    """Eight seats of which each is taken for four seconds: one becomes free every half a second."""
    clock = Clock()
    pace = Pace(0.1, clock=clock)
    for _ in range(200):
        clock.now += 0.5
        pace.given_back(4.0, 8)
    assert pace.delay_s(1) == pytest.approx(0.5)
    assert pace.delay_s(6) == pytest.approx(3.0)


def test_while_nothing_becomes_free_the_delay_grows():
    """What was quick before says nothing of seats that nobody gives back; but a busy start is no old one."""
    clock = Clock()
    pace = Pace(0.1, clock=clock)
    clock.now += 1000
    pace.began()
    assert pace.delay_s(2) == pytest.approx(0.2)
    clock.now += 7
    assert pace.delay_s(2) == pytest.approx(14)
    clock.now += 1000
    assert pace.delay_s(2) == MAX_DELAY_S
