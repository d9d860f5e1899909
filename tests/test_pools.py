"""Device pools: admission, batches, deadlines, cancellation, caches, memory."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.errors import DeadlineError, FailedPreconditionError, OverloadedError
from cutout_server.models.family import Family
from cutout_server.models.queries import Candidates, DecodeQuery
from cutout_server.pools import device
from cutout_server.pools.admission import Who
from cutout_server.pools.device import DevicePool
from cutout_server.pools.embeddings import EmbeddingKey, EmbeddingsCache
from cutout_server.pools.placement import Pools
from cutout_server.settings import ModelSettings
from cutout_server.types import Picture
from device_pools import FOREVER, Watcher, ask, open_pool, query, spec_of
from probe_family import Probe, ProbeEmbedding
from waiting import PATIENCE_S, until


async def test_waiting_jobs_of_one_kind_share_a_pass():
    """What waits while the device is busy goes through it together, and each caller gets its own answer."""
    probe = Probe()
    spec = spec_of(probe)
    async with open_pool() as pool:
        first = asyncio.ensure_future(ask(pool, spec, query(0)))
        await until(lambda: probe.passes)
        rest = [asyncio.ensure_future(ask(pool, spec, query(x))) for x in (1, 2, 3)]
        await asyncio.sleep(0)
        probe.gate.set()
        answers = await asyncio.gather(first, *rest)
    assert probe.passes == [("decode", 1), ("decode", 3)]
    for x, (candidates,) in enumerate(answers):
        assert np.flatnonzero(candidates.logits[0, 0] > 0)[0] == x


async def test_batches_are_bounded():
    """No pass is larger than the bound, and every question is answered."""
    probe = Probe()
    probe.gate.set()
    watcher = Watcher()
    async with open_pool(watcher, max_batch=4) as pool:
        assert len(await ask(pool, spec_of(probe), *(query(x % 8) for x in range(10)))) == 10
        assert (pool.jobs, pool.batches) == (10, 3)
    assert watcher.batches == [("decode", 4), ("decode", 4), ("decode", 2)]


async def test_one_bad_question_fails_alone():
    """A question that makes a shared pass fail does not fail the others in it."""
    probe = Probe()
    spec = spec_of(probe)
    async with open_pool() as pool:
        blocker = asyncio.ensure_future(ask(pool, spec, query()))
        await until(lambda: probe.passes)
        waiting = [asyncio.ensure_future(ask(pool, spec, query(x))) for x in (1, 13, 2)]
        await asyncio.sleep(0)
        probe.gate.set()
        good, bad, also_good = await asyncio.gather(*waiting, return_exceptions=True)
        await blocker
    assert isinstance(bad, ValueError)
    assert good[0].logits.shape == also_good[0].logits.shape == (1, 8, 32)


async def test_nobody_waits_for_a_pool_that_was_closed():
    """Of a pass that failed, neither whose question is asked again on its own then, nor who would be next."""
    alone, goes_on = threading.Event(), threading.Event()

    class Held(Probe):
        def decode(self, queries: list[DecodeQuery]) -> list[Candidates]:
            if len(queries) == 1:
                alone.set()
                assert goes_on.wait(PATIENCE_S)
            return super().decode(queries)

    probe = Held()
    probe.gate.set()
    spec = spec_of(probe)
    async with open_pool() as pool:
        asking = [asyncio.ensure_future(ask(pool, spec, query(x_min))) for x_min in (13, 1)]
        await until(alone.is_set)
        await pool.close()
        goes_on.set()
        await asyncio.wait(asking, timeout=PATIENCE_S)
        assert all(each.cancelled() for each in asking)


async def test_a_full_pool_says_when_to_come_back_at_once():
    """The request beyond the capacity is turned away with a delay, and a slot that is given back can be taken."""
    async with open_pool(capacity=2) as pool:
        pool.admit(Who(""))
        turn = pool.admit(Who(""))
        with pytest.raises(OverloadedError) as refused:
            pool.admit(Who(""))
        assert 0.1 <= refused.value.retry_after_s <= 60
        pool.leave(turn, worked_s=0.5)
        pool.admit(Who(""))


@pytest.mark.parametrize(("gains", "passes"), [(True, 1), (False, 8)])
async def test_joining_stops_where_it_gains_nothing(gains: bool, passes: int):
    """Once measured, jobs are joined only if that takes less time for each."""
    probe = Probe()
    probe.gate.set()
    ahead_s = 0.0  # Of the real clock: next to what passes seem to take, the time that they take is nothing.

    def work(self: Probe, queries: list[DecodeQuery]) -> list[Candidates]:
        nonlocal ahead_s
        ahead_s += 10_000 if gains else 10_000 * len(queries) ** 2
        return decode(self, queries)

    decode = Probe.decode
    spec = spec_of(probe)
    async with open_pool(max_batch=8) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Probe, "decode", work)
            patch.setattr(device, "time", SimpleNamespace(monotonic=lambda: ahead_s + time.monotonic()))
            await ask(pool, spec, query())
            await ask(pool, spec, *(query(x) for x in range(8)))
            before = pool.batches
            await ask(pool, spec, *(query(x) for x in range(8)))
            assert pool.batches - before == passes


async def test_work_past_its_deadline_is_not_begun():
    """A job whose deadline passed while it waited is dropped before it reaches the model."""
    probe = Probe()
    spec = spec_of(probe)
    watcher = Watcher()
    async with open_pool(watcher) as pool:
        blocker = asyncio.ensure_future(ask(pool, spec, query()))
        await until(lambda: probe.passes)
        deadline_s = time.monotonic() + 0.01
        hasty = asyncio.ensure_future(ask(pool, spec, query(), deadline_s=deadline_s))
        await until(lambda: time.monotonic() > deadline_s)
        probe.gate.set()
        with pytest.raises(DeadlineError):
            await hasty
        await blocker
    assert probe.count("decode") == 1
    assert watcher.drops == ["deadline"]


async def test_work_of_a_caller_who_left_is_not_begun():
    """A job whose caller was cancelled while it waited is dropped before it reaches the model."""
    probe = Probe()
    spec = spec_of(probe)
    watcher = Watcher()
    async with open_pool(watcher) as pool:
        blocker = asyncio.ensure_future(ask(pool, spec, query()))
        await until(lambda: probe.passes)
        leaver = asyncio.ensure_future(ask(pool, spec, query(), query()))
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        probe.gate.set()
        await blocker
        await ask(pool, spec, query())
    assert probe.count("decode") == 2
    assert watcher.drops == ["cancelled", "cancelled"]


async def test_too_few_answers_are_noticed():
    """A model that gives fewer answers than it was asked questions fails the request instead of mixing answers up."""

    class Forgetful(Probe):
        def decode(self, queries):
            return super().decode(queries)[1:]

    probe = Forgetful()
    probe.gate.set()
    async with open_pool() as pool:
        with pytest.raises(RuntimeError, match="gave 0 answers to 1 questions"):
            await ask(pool, spec_of(probe), query())


async def test_several_who_ask_for_one_picture_share_its_encode():
    """Two requests for the same embedding at once cause one encode; the second counts as a hit."""
    cache = EmbeddingsCache(10_000)
    started, finish = asyncio.Event(), asyncio.Event()
    encodes = 0

    async def encode() -> ProbeEmbedding:
        nonlocal encodes
        encodes += 1
        started.set()
        await finish.wait()
        return ProbeEmbedding((1, 1), 0)

    key = EmbeddingKey("caller", "m", "sha")
    both = [asyncio.ensure_future(cache.get(key, encode)) for _ in range(2)]
    await started.wait()
    finish.set()
    (one, was_there), (other, joined) = await asyncio.gather(*both)
    assert one is other
    assert (was_there, joined, encodes, cache.hits, cache.misses) == (False, True, 1, 1, 1)
    assert (await cache.get(key, encode))[1]


async def test_the_first_to_ask_may_leave_without_harm():
    """An encode goes on for the others when the request that began it is cancelled, and ends with the last of them."""
    cache = EmbeddingsCache(10_000)
    finish = asyncio.Event()
    cancelled = False

    async def encode() -> ProbeEmbedding:
        nonlocal cancelled
        try:
            await finish.wait()
        except asyncio.CancelledError:
            cancelled = True
            raise
        return ProbeEmbedding((1, 1), 0)

    key = EmbeddingKey("caller", "m", "sha")
    first, second = (asyncio.ensure_future(cache.get(key, encode)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert not cancelled
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await asyncio.sleep(0)
    assert cancelled
    assert not cache.holds(key)
    finish.set()
    assert not (await cache.get(key, encode))[1]


async def test_the_embeddings_cache_is_bounded_in_bytes():
    """The least recently used embeddings leave, and one that is larger than the cache is not kept."""
    cache = EmbeddingsCache(2_500)

    async def get(sha: str, nbytes: int = 1_000) -> bool:
        async def encode() -> ProbeEmbedding:
            return ProbeEmbedding((1, 1), 0, nbytes)

        return (await cache.get(EmbeddingKey("caller", "m", sha), encode))[1]

    assert [await get("a"), await get("b"), await get("a")] == [False, False, True]
    await get("c")
    assert (len(cache), cache.bytes) == (2, 2_000)
    assert [await get("a"), await get("b")] == [True, False]
    await get("huge", 9_999)
    assert (cache.bytes, cache.remade) == (2_000, 1)  # b, which had to leave for c
    cache.drop_model("m")
    assert (len(cache), cache.bytes) == (0, 0)


async def test_models_leave_to_make_room_and_take_their_embeddings_along():
    """Within the memory budget the least recently used model is unloaded; its embeddings are forgotten."""
    probes = {name: Probe(nbytes=600) for name in "abc"}
    specs = {name: spec_of(probe, name) for name, probe in probes.items()}
    async with open_pool(memory_budget_bytes=1_300) as pool:
        for name in "ab":
            await pool.load(specs[name])

        async def encode() -> ProbeEmbedding:
            return ProbeEmbedding((1, 1), 0)

        await pool.embeddings.get(EmbeddingKey("caller", "b", "sha"), encode)
        await pool.load(specs["a"])
        await pool.load(specs["c"])
        await asyncio.sleep(0)
        assert list(pool.models.sizes()) == ["a", "c"]
        assert len(pool.embeddings) == 0
        with pytest.raises(FailedPreconditionError, match="may hold 1300"):
            await pool.load(spec_of(Probe(nbytes=2_000), "d"))
        await pool.unload("a")
        assert pool.models.sizes() == {"c": 600}


async def test_requests_go_where_the_embedding_is_then_to_the_shortest_queue():
    """A placed request moves to the device that holds its picture's embedding; others spread out."""
    probe = Probe()
    probe.gate.set()
    spec = spec_of(probe, devices=("one", "two"))
    options = {"capacity": 2, "max_batch": 1, "max_encode_batch": 1, "memory_budget_bytes": 0}
    call_context.begin(call_context.Call("id", "caller", FOREVER))
    by_device = {
        name: DevicePool(name, embeddings_cache_bytes=9_999, observer=Watcher(), **options) for name in spec.devices
    }
    pools = Pools(by_device, Catalogue({"probe": spec}))
    picture = Picture.of(np.zeros((2, 2, 3), np.uint8), "sha")
    try:
        async with pools.slot(spec) as first:
            assert first.pool.device == "one"
            async with pools.slot(spec) as second:
                assert second.pool.device == "two"
                await second.embed(spec, picture)
        async with pools.slot(spec) as third:
            pools.settle(third, picture, spec)
            assert third.pool.device == "two"
            assert (by_device["one"].requests, by_device["two"].requests) == (0, 1)
        assert by_device["two"].requests == 0
    finally:
        await pools.close()


async def test_a_request_that_has_ended_takes_no_slot_again():
    """What it began to encode goes on for another one; the slot that it gave back before is nobody's any more."""
    probe = Probe()
    probe.gate.set()
    spec = spec_of(probe)
    call_context.begin(call_context.Call("id", "caller", FOREVER))
    options = {"capacity": 2, "max_batch": 1, "max_encode_batch": 1, "memory_budget_bytes": 0}
    pool = DevicePool("cpu", embeddings_cache_bytes=9_999, observer=Watcher(), **options)
    pools = Pools({"cpu": pool}, Catalogue({"probe": spec}))
    picture = Picture.of(np.zeros((2, 2, 3), np.uint8), "sha")
    rested, full = asyncio.Event(), asyncio.Event()

    async def resting() -> None:
        async with pools.slot(spec) as slot:
            assert slot.rest()
            rested.set()
            await full.wait()
            await slot.embed(spec, picture)

    try:
        async with pools.slot(spec) as slot:
            first = asyncio.ensure_future(resting())
            await rested.wait()
            async with pools.slot(spec):
                full.set()
                await until(lambda: pools.has_embedded(spec, "sha"))
                second = asyncio.ensure_future(slot.embed(spec, picture))
                await asyncio.sleep(0)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            await second
        assert probe.count("encode") == 1
        assert pool.requests == 0
    finally:
        await pools.close()


async def test_pixels_are_made_for_an_encode_alone():
    """Not for a picture whose embedding is there; off the event loop for one whose embedding has left."""
    probe = Probe()
    probe.gate.set()
    spec = spec_of(probe)
    call_context.begin(call_context.Call("id", "caller", FOREVER))
    options = {"capacity": 1, "max_batch": 1, "max_encode_batch": 1, "memory_budget_bytes": 0}
    threads = []

    def read() -> np.ndarray:
        threads.append(threading.get_ident())
        return np.zeros((2, 2, 3), np.uint8)

    pool = DevicePool("cpu", embeddings_cache_bytes=9_999, observer=Watcher(), **options)
    pools = Pools({"cpu": pool}, Catalogue({"probe": spec}))
    try:
        for _ in range(2):
            async with pools.slot(spec) as slot:
                assert pools.has_embedded(spec, "sha") == bool(threads)
                await slot.embed(spec, Picture(2, 2, "sha", read))
        assert len(threads) == 1
        assert threads[0] != threading.get_ident()
    finally:
        await pools.close()


async def test_a_model_that_cannot_be_loaded_fails_its_requests_and_no_others():
    """A load error reaches whoever asked, and the pool goes on."""

    def broken(*_: object) -> Probe:
        raise FailedPreconditionError("the file is truncated; download it again")

    bad = ModelSpec(
        ModelSettings(name="bad", family="probe"), Family("probe", frozenset(), broken), ("cpu",), frozenset()
    )
    probe = Probe()
    probe.gate.set()
    async with open_pool() as pool:
        with pytest.raises(FailedPreconditionError, match="truncated"):
            await ask(pool, bad, query())
        assert await ask(pool, spec_of(probe), query())


async def test_models_run_off_the_event_loop():
    """A pass that takes its time leaves the event loop free."""
    probe = Probe()
    async with open_pool() as pool:
        pending = asyncio.ensure_future(ask(pool, spec_of(probe), query()))
        await until(lambda: probe.passes)
        assert threading.current_thread().name != "pool-cpu_0"
        probe.gate.set()  # Could not be reached if the pass held the loop.
        await pending


async def test_a_worker_outlives_what_watches_it(monkeypatch: pytest.MonkeyPatch):
    """A fault in the pool's own bookkeeping fails those whose pass it was; whoever comes next is answered."""

    def breaks(*_: object) -> None:
        raise KeyError("no such label")

    probe = Probe()
    probe.gate.set()
    async with open_pool(watcher := Watcher()) as pool:
        monkeypatch.setattr(watcher, "batched", breaks)
        with pytest.raises(KeyError, match="no such label"):
            await asyncio.wait_for(ask(pool, spec_of(probe), query()), PATIENCE_S)
        monkeypatch.undo()
        assert len(await asyncio.wait_for(ask(pool, spec_of(probe), query()), PATIENCE_S)) == 1


async def test_an_embedding_that_others_make_is_expected_until_it_is_kept():
    """Whoever looks for it meanwhile counts as having found it, and nothing is held when nothing came."""
    cache, key = EmbeddingsCache(2_500), EmbeddingKey("caller", "m", "sha")
    with cache.expected(key) as first:
        assert not first
        with cache.expected(key) as second:
            assert second
        assert cache.holds(key)
        assert key not in cache
    assert not cache.holds(key)
    with cache.expected(key) as third:
        assert not third
        cache.keep(key, ProbeEmbedding((1, 1), 0, 1_000))
    assert key in cache
    assert (cache.hits, cache.misses, cache.bytes) == (1, 2, 1_000)
