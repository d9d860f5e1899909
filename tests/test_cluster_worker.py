"""Both ends of a cluster by themselves, without Ray: how they begin and end, and how long a request goes on."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from cutout_common.distribution import build
from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.cluster import worker as module
from cutout_server.cluster.messages import Asked
from cutout_server.cluster.worker import Worker
from cutout_server.errors import FailedPreconditionError, InternalError, UnavailableError
from cutout_server.pools.admission import Who
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.settings import Settings
from cutout_server.types import Picture, RgbImage
from device_pools import spec_of
from probe_family import Probe
from structlog.testing import capture_logs
from waiting import until

pytest.importorskip("ray", reason="the package ray is not installed: pip install ray")

from cutout_server.cluster import pixels as store
from cutout_server.cluster import pools
from cutout_server.cluster.pixels import Pixels
from cutout_server.cluster.pool import WorkerLostError, WorkerPool
from cutout_server.cluster.pools import ClusterPools, ClusterSlot


@contextmanager
def own_worker(
    monkeypatch: pytest.MonkeyPatch, spec: ModelSpec, **settings: float
) -> Iterator[tuple[Worker, threading.Event]]:
    """A worker in this process with a model, and what is set when it has ended itself."""
    ended = threading.Event()
    monkeypatch.setattr(module, "logs", SimpleNamespace(configure=lambda *_: None))
    monkeypatch.setattr(module, "heap", SimpleNamespace(keep_freed=lambda: None))
    monkeypatch.setattr(module, "os", SimpleNamespace(_exit=lambda _: ended.set()))
    catalogue = SimpleNamespace(specs={spec.name: spec}, get=lambda _: spec)
    monkeypatch.setattr(module, "Catalogue", SimpleNamespace(of=lambda _: catalogue))
    worker = Worker(Settings(preload=False, devices=("cpu",), **settings), 0.0, build())
    try:
        yield worker, ended
    finally:
        worker._ended.set()  # Or its thread would end this process in a minute.


async def test_weights_that_cannot_be_had_are_tried_again_and_keep_no_device(monkeypatch: pytest.MonkeyPatch):
    """The next look may find them; a worker that no front looks after ends itself, though it never had its models."""
    fetches: list[int] = []

    def fetch() -> None:
        fetches.append(len(fetches))
        if len(fetches) == 1:
            raise FailedPreconditionError("the hub cannot be reached")

    monkeypatch.setattr(module, "LEASE_S", -1.0)
    with own_worker(monkeypatch, SimpleNamespace(name="model", fetch=fetch)) as (worker, ended):
        with pytest.raises(FailedPreconditionError):
            await worker.look()
        await until(ended.is_set)
        assert (await worker.look()).models == {}
        assert (await worker.look()).models == {}
        assert fetches == [0, 1]
    await worker._pool.close()


def embedded(worker: Worker, asked: Asked, key: EmbeddingKey) -> asyncio.Task[object]:
    """Asks a worker for the embedding of a picture."""
    pixels: asyncio.Future[RgbImage] = asyncio.get_running_loop().create_future()
    pixels.set_result(np.zeros((2, 2, 3), np.uint8))
    return asyncio.create_task(worker.embed(asked, key, {key: pixels}))


async def test_a_worker_ends_when_a_pass_outlasts_every_call(monkeypatch: pytest.MonkeyPatch):
    """A model that never answers holds the device; those that wait behind it are asked elsewhere, as when one dies."""
    probe, asked = Probe(), Asked("probe", "request", "caller", float("inf"), float("inf"), "")
    bounds = {"default_deadline_s": 0.5, "max_deadline_s": 0.5}
    with own_worker(monkeypatch, spec_of(probe), **bounds) as (worker, ended):
        await worker.look()
        await asyncio.sleep(0.6)
        assert not worker._hangs(time.monotonic())  # It rests.
        embedding = embedded(worker, asked, EmbeddingKey("caller", "probe", "sha"))
        await until(ended.is_set)
        probe.gate.set()
        await embedding
        assert not worker._hangs(float("inf"))
    await worker._pool.close()


async def test_a_worker_forgets_what_its_front_forgets(monkeypatch: pytest.MonkeyPatch):
    """Frames of followed videos would fill its cache else; it is told with the next question, and once."""
    call_context.begin(call_context.Call("request", "caller", float("inf")))
    options = {"capacity": 1, "memory_budget_bytes": 0, "embeddings_cache_bytes": 9_999}
    front = WorkerPool("worker", SimpleNamespace(), Pixels(), SimpleNamespace(), **options)
    turn, probe = front.admit(Who("caller", "peer")), Probe()
    probe.gate.set()
    spec = spec_of(probe)
    frame, other = (EmbeddingKey("caller", "probe", picture) for picture in ("frame", "other"))
    with own_worker(monkeypatch, spec) as (worker, _):
        await worker.look()
        await embedded(worker, front._asked(turn, spec, float("inf")), frame)
        assert frame in worker._pool.embeddings
        front.forget(frame)
        await embedded(worker, front._asked(turn, spec, float("inf")), other)
        assert frame not in worker._pool.embeddings
        assert other in worker._pool.embeddings
        assert not front._asked(turn, spec, float("inf")).forgotten
    await worker._pool.close()


async def test_a_worker_that_cannot_begin_is_tried_ever_more_rarely(monkeypatch: pytest.MonkeyPatch):
    """The front waits twice as long each time, up to a bound, and says so once for each attempt."""
    monkeypatch.setattr(pools, "LOOK_S", 0.001)
    monkeypatch.setattr(pools, "MOST_S", 0.004)
    front = pools.ClusterPools(Settings(ray_min_workers=1), SimpleNamespace(specs={}), SimpleNamespace())
    attempts: list[int] = []

    async def worker(number: int) -> None:
        attempts.append(number)
        raise OSError("no node has a device")

    async def numbers() -> list[int]:
        return []

    front._engine = SimpleNamespace(worker=worker, numbers=numbers, leave=numbers)
    with capture_logs() as logs:
        keeping = asyncio.create_task(front._keep())
        await until(lambda: len(attempts) >= 5)
        keeping.cancel()
        await front.close()
    told = [line["again_s"] for line in logs if line["event"] == "worker does not begin"]
    assert told[:4] == [0.001, 0.002, 0.004, 0.004]
    assert len(told) in {len(attempts), len(attempts) - 1}


async def test_an_outage_of_the_cluster_is_told_once(monkeypatch: pytest.MonkeyPatch):
    """And again when it fails otherwise, or failed in between."""
    monkeypatch.setattr(pools, "LOOK_S", 0.001)
    front = pools.ClusterPools(Settings(ray_min_workers=1), SimpleNamespace(specs={}), SimpleNamespace())
    looks = ["away", "away", "away", "", "away", "gone", "gone"]

    async def numbers() -> list[int]:
        if why := looks.pop(0) if looks else "":
            raise ConnectionError(why)
        return []

    async def worker(number: int) -> None:
        await asyncio.Event().wait()

    front._engine = SimpleNamespace(worker=worker, numbers=numbers, leave=numbers)
    with capture_logs() as logs:
        keeping = asyncio.create_task(front._keep())
        await until(lambda: not looks)
        keeping.cancel()
        await front.close()
    told = [line["why"] for line in logs if line["event"] == "the cluster does not answer"]
    assert told == ["ConnectionError: away", "ConnectionError: away", "ConnectionError: gone"]


class LosingPool:
    """A worker's, of which each that has a request is lost with it."""

    def __init__(self, *, died: bool) -> None:
        self.device = "worker"
        self.lost = WorkerLostError(self, had_it=True, died=died)


@pytest.mark.parametrize(
    ("losses", "is_answered"),
    [("d", True), ("dd", False), ("ssss", True), ("sssss", False), ("sd", True), ("sssd", True), ("dsd", False)],
)
async def test_a_request_goes_on_until_too_many_workers_are_lost_with_it(losses: str, is_answered: bool):
    """Two that died, as it may be what ends them; of those that fell silent, for which networks are to blame, five."""
    workers = [LosingPool(died=loss == "d") for loss in losses]
    parted: list[tuple[object, bool]] = []

    async def answering() -> object:
        return workers[min(len(parted), len(workers) - 1)]

    cluster = SimpleNamespace(part=lambda pool, *, died: parted.append((pool, died)), answering=answering)
    slot = ClusterSlot(cluster, workers[0], SimpleNamespace())
    slot.move_on, slot._resume = (lambda _: None), answering
    call_context.begin(call_context.Call("request", "caller", float("inf")))

    async def ask() -> str:
        if len(parted) < len(workers):
            raise workers[len(parted)].lost
        return "answered"

    if is_answered:
        assert await slot._asked(ask) == "answered"
    else:
        with pytest.raises(InternalError) as given_up:
            await slot._asked(ask)
        assert given_up.value.reason == "SERVERS_LOST"
    assert parted == [(worker, worker.lost.died) for worker in workers]


async def test_a_request_whose_worker_is_lost_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch):
    """Though it has no deadline, as those of sessions have none."""
    monkeypatch.setattr(pools, "AGAIN_S", 0.01)
    front = ClusterPools(Settings(engine="ray"), SimpleNamespace(), SimpleNamespace())
    with pytest.raises(UnavailableError) as none:
        await front.answering()
    assert (none.value.reason, none.value.retry_after_s) == ("NO_WORKERS", 5.0)


async def test_equal_pictures_are_put_once_while_one_of_them_is_in_hand(monkeypatch: pytest.MonkeyPatch):
    """One caller's; other callers' pixels are their own, and what could not be put is tried again."""
    put: list[object] = []

    def store_pixels(pixels: object) -> int:
        put.append(pixels)
        if len(put) == 1:
            raise MemoryError("the object store is full")
        return len(put)

    monkeypatch.setattr(store.ray, "put", store_pixels)
    call_context.begin(call_context.Call("request", "caller", float("inf")))
    pixels = Pixels()
    one, other, foreign = (EmbeddingKey(caller, model, "sha") for caller, model in ("aa", "ab", "bb"))

    def picture() -> Picture:
        return Picture.of(np.zeros((2, 2, 3), np.uint8), "sha")

    alike = [picture(), picture()]
    with pytest.raises(MemoryError):
        await pixels.of(one, alike[0])
    assert await asyncio.gather(pixels.of(one, alike[0]), pixels.of(other, alike[1])) == [2, 2]
    assert await pixels.of(foreign, picture()) == 3
    alike.pop()
    assert await pixels.of(one, picture()) == 2
    alike.clear()
    gc.collect()
    assert await pixels.of(one, picture()) == 4
