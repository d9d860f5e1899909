"""Device pools: who is served next."""

import asyncio

from cutout_server.pools.admission import Who
from cutout_server.pools.device import DevicePool
from cutout_server.pools.fair_queue import Turn
from device_pools import ask, open_pool, query, spec_of
from probe_family import Probe
from waiting import until


async def served(turns: list[tuple[str, Turn]], pool: DevicePool) -> list[str]:
    """The names of requests in the order in which they are served, all of them waiting behind another."""
    probe = Probe()
    order: list[str] = []
    blocker = asyncio.ensure_future(ask(pool, spec_of(probe, "blocker"), query(), turn=pool.admit(Who("blocker"))))
    await until(lambda: probe.passes)
    waiting = []
    for name, turn in turns:
        # Models of their own, so that no two share a pass.
        job = asyncio.ensure_future(ask(pool, spec_of(probe, name), query(), turn=turn))
        job.add_done_callback(lambda _, name=name: order.append(name))
        waiting.append(job)
    await asyncio.sleep(0)
    probe.gate.set()
    await asyncio.gather(blocker, *waiting)
    return order


async def test_the_earlier_request_goes_first():
    """Requests of one caller with no deadline go in the order of their admission."""
    async with open_pool() as pool:
        first, second = pool.admit(Who("a")), pool.admit(Who("a"))
        assert await served([("second", second), ("first", first)], pool) == ["first", "second"]


async def test_the_nearer_deadline_goes_first():
    """Of one caller's requests that wait, the one that has least time is next."""
    async with open_pool() as pool:
        patient, hasty = pool.admit(Who("a"), deadline_s=900.0), pool.admit(Who("a"), deadline_s=100.0)
        assert await served([("patient", patient), ("hasty", hasty)], pool) == ["hasty", "patient"]


async def test_many_requests_of_one_caller_do_not_stand_before_anothers():
    """The second caller's first request is served after the first caller's first, not after all of them."""
    async with open_pool() as pool:
        greedy = [(f"greedy-{i}", pool.admit(Who("greedy"), deadline_s=1.0)) for i in range(4)]
        modest = ("modest", pool.admit(Who("modest"), deadline_s=2.0))
        order = await served([*greedy, modest], pool)
    assert order == ["greedy-0", "modest", "greedy-1", "greedy-2", "greedy-3"]


async def test_what_has_begun_is_finished_first():
    """A later step of a request overtakes the first step of another, whoever it belongs to."""
    probe = Probe()
    probe.gate.set()
    async with open_pool() as pool:
        begun = pool.admit(Who("greedy"))
        await ask(pool, spec_of(probe), query(), turn=begun)
        other = pool.admit(Who("other"))
        assert await served([("other", other), ("begun", begun)], pool) == ["begun", "other"]


async def test_whoever_is_answered_asks_on_before_others_have_a_pass():
    """A request of several steps is not passed over after each of them because its next question is a moment away."""
    probe = Probe()
    order: list[str] = []
    async with open_pool() as pool:
        box, other = pool.admit(Who("one")), pool.admit(Who("other"))

        async def ask_all(turn: Turn, *names: str) -> None:
            for name in names:
                await asyncio.create_task(ask(pool, spec_of(probe, name), query(), turn=turn))
                order.append(name)

        asking = [asyncio.ensure_future(ask_all(box, "encode", "decode", "masks"))]
        await until(lambda: probe.passes)
        asking.append(asyncio.ensure_future(ask_all(other, "anothers")))
        await until(lambda: pool.queued_jobs)
        probe.gate.set()
        await asyncio.gather(*asking)
    assert order == ["encode", "decode", "masks", "anothers"]


async def test_many_that_have_begun_do_not_stand_before_anothers_first():
    """Who comes anew is behind the oldest request that is not done, and before the rest of them."""
    probe = Probe()
    probe.gate.set()
    async with open_pool(capacity=8) as pool:
        begun = [(f"begun-{i}", pool.admit(Who("greedy"), deadline_s=1.0)) for i in range(4)]
        for _, turn in begun:
            await ask(pool, spec_of(probe), query(), turn=turn)
        order = await served([*begun, ("modest", pool.admit(Who("modest"), deadline_s=2.0))], pool)
    assert order == ["begun-0", "modest", "begun-1", "begun-2", "begun-3"]


async def test_a_second_pass_of_a_kind_lets_the_others_pass():
    """What one pass does not answer waits for the next like a request that has just come."""
    probe = Probe()
    async with open_pool(max_batch=1) as pool:
        many, one, other = (pool.admit(Who(caller), deadline_s=1.0) for caller in ("a", "a", "b"))
        order: list[str] = []

        def asked(name: str, turn: Turn, questions: int) -> asyncio.Future[None]:
            asking = asyncio.ensure_future(ask(pool, spec_of(probe), *[query()] * questions, turn=turn))
            asking.add_done_callback(lambda _: order.append(name))
            return asking

        waiting = [asked("many", many, 3)]
        await until(lambda: probe.passes)
        waiting += [asked("one", one, 1), asked("other", other, 1)]
        await asyncio.sleep(0)
        probe.gate.set()
        await asyncio.gather(*waiting)
    assert order == ["other", "one", "many"]
    assert len(probe.passes) == 5


async def test_a_frame_whose_caller_leaves_in_the_middle_leaves_the_device():
    """What is left of it is not begun, and whoever waits is next."""
    probe = Probe()
    async with open_pool(max_batch=1) as pool:
        frame, other = pool.admit(Who("a")), pool.admit(Who("b"))
        leaving = asyncio.ensure_future(ask(pool, spec_of(probe), *[query()] * 16, turn=frame))
        await until(lambda: probe.passes)
        leaving.cancel()
        waiting = asyncio.ensure_future(ask(pool, spec_of(probe), query(), turn=other))
        await asyncio.sleep(0)
        pool.leave(frame, 0.0)
        probe.gate.set()
        await waiting
        assert len(probe.passes) == 2
        assert pool.queued_jobs == 0
