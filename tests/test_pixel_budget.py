"""The pixel budget: nobody overtakes, nothing leaks, sessions and callers leave room."""

import asyncio

import pytest
from cutout_server import call_context
from cutout_server.errors import OverloadedError
from cutout_server.images.pixel_budget import PixelBudget
from waiting import PATIENCE_S, until


async def test_pictures_wait_their_turn():
    """What does not fit waits, and a small one behind it does not overtake."""
    budget = PixelBudget(10, callers_share=1)
    entered: list[str] = []
    release = {name: asyncio.Event() for name in "abc"}

    async def work(name: str, pixels: int) -> None:
        call_context.begin(call_context.Call("id", name, float("inf")))
        async with budget.hold(pixels):
            entered.append(name)
            await release[name].wait()

    tasks = [asyncio.create_task(work(name, pixels)) for name, pixels in (("a", 6), ("b", 6), ("c", 2))]
    await asyncio.sleep(0)
    assert entered == ["a"]
    release["a"].set()
    await until(lambda: len(entered) == 3)
    assert entered == ["a", "b", "c"]
    release["b"].set()
    release["c"].set()
    await asyncio.gather(*tasks)


async def test_a_caller_who_leaves_the_line_holds_nobody_up():
    """Cancelling the first in line lets the next in, and all pixels come back in the end."""
    budget = PixelBudget(10, callers_share=1)
    async with budget.hold(8):
        async with asyncio.timeout(PATIENCE_S):
            waiting = [asyncio.create_task(_enter(budget, pixels, caller)) for pixels, caller in ((9, "a"), (2, "b"))]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await waiting[1]
    async with asyncio.timeout(PATIENCE_S), budget.hold(10):
        pass


async def test_a_caller_cancelled_as_its_turn_comes_gives_it_back():
    """A cancellation that meets the grant does not lose the pixels."""
    budget = PixelBudget(10, callers_share=1)
    async with budget.hold(10):
        waiting = asyncio.create_task(_enter(budget, 10))
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), budget.hold(10):
        pass


async def test_one_caller_leaves_room_for_others():
    """It waits for its own pictures once it has its share, and holds up nobody else."""
    budget = PixelBudget(10)
    entered: list[str] = []
    release = {name: asyncio.Event() for name in ("many", "one")}

    async def work(name: str, pixels: int) -> None:
        call_context.begin(call_context.Call("id", name, float("inf")))
        async with budget.hold(pixels):
            entered.append(name)
            await release[name].wait()

    tasks = [asyncio.create_task(work(*each)) for each in (("many", 3), ("many", 2), ("many", 1), ("one", 4))]
    await until(lambda: len(entered) == 3)
    assert entered == ["many", "many", "one"]
    release["one"].set()
    await tasks[-1]
    assert len(entered) == 3
    release["many"].set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*tasks)
    assert budget.in_use == 0


async def test_sessions_leave_half_to_others():
    """Sessions are turned away with a delay before they take what requests need."""
    budget = PixelBudget(10, callers_share=1)
    async with budget.hold_for_session(5):
        with pytest.raises(OverloadedError) as refused:
            async with budget.hold_for_session(1):
                pass
        assert refused.value.retry_after_s
        async with asyncio.timeout(PATIENCE_S), budget.hold(5):
            pass
    async with asyncio.timeout(PATIENCE_S), budget.hold_for_session(5):
        pass


async def test_the_sessions_of_one_caller_leave_half_to_those_of_others():
    """Its first may be as large as it likes; one more that passes its share is turned away with a delay."""

    async def refused(caller: str, pixels: int) -> bool:
        call_context.begin(call_context.Call("id", caller, float("inf")))
        try:
            async with budget.hold_for_session(pixels):
                return False
        except OverloadedError as error:
            return error.retry_after_s is not None

    budget = PixelBudget(24)
    call_context.begin(call_context.Call("id", "many", float("inf")))
    async with budget.hold_for_session(5):
        tried = [("many", 2), ("many", 1), ("other", 7), ("other", 8)]
        found = [await asyncio.create_task(refused(*each)) for each in tried]
    assert found == [True, False, False, True]
    async with budget.hold_for_session(12):
        pass


async def _enter(budget: PixelBudget, pixels: int, caller: str = "") -> None:
    call_context.begin(call_context.Call("id", caller, float("inf")))
    async with budget.hold(pixels):
        pass
