"""All workers of the cluster: which there are, where a request is placed, what becomes of it when one is lost."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from cutout_common.failover import LOST_REASON, MAX_LOST
from cutout_common.fleet import first

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.cluster.engine import RayEngine
from cutout_server.cluster.messages import Handle
from cutout_server.cluster.pixels import Pixels
from cutout_server.cluster.pool import WorkerLostError, WorkerPool
from cutout_server.errors import InternalError, UnavailableError
from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import Operation
from cutout_server.pools.device import PoolObserver
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.pools.fair_queue import Turn
from cutout_server.pools.placement import Pools, Slot, embedding_key
from cutout_server.pools.pool import Pool
from cutout_server.settings import Settings
from cutout_server.types import Picture, RgbImage

log = structlog.get_logger()
T = TypeVar("T")

LOOK_S = 1.0
# Between two attempts to begin a worker.
MOST_S = 8.0
# A worker that says nothing for so long is lost, as when its node is cut off; a request goes on from so many of them.
SILENT_S, MAX_SILENT = 10.0, 5
# A new request waits so long for a worker while there is none; one that lost its worker, which is about to come again.
NONE_S, AGAIN_S = 30.0, 120.0
# So many jobs that wait, for each worker and so many looks in a row, have another one begun.
LONG_QUEUE, LONG_LOOKS = 4, 3


class ClusterSlot(Slot):
    """A request's place at a worker; when that is lost, what it was asked is asked at another one.

    Args:
        pools: The workers.
        pool: The first.
        turn: There.
    """

    def __init__(self, pools: "ClusterPools", pool: Pool, turn: Turn) -> None:
        super().__init__(pool, turn)
        self._pools = pools
        self._lost: dict[WorkerPool, bool] = {}  # With the request, and whether it died.
        self._held = ExitStack()

    async def embedding(self, spec: ModelSpec, picture: Picture) -> Embedding:
        """What stands for it; the first question makes it, so that the worker is asked once for both."""
        key = embedding_key(spec, picture.key)
        stages = call_context.current().stages
        stages.embedding_cached = self._held.enter_context(self.pool.embeddings.expected(key))
        return Handle(key, (picture.height, picture.width), picture=picture)

    def leave(self) -> None:
        """See Slot."""
        self._held.close()
        super().leave()

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await super()._asked(ask)
            except WorkerLostError as lost:
                if lost.had_it:
                    self._lost[lost.pool] = lost.died
                self._pools.part(lost.pool, died=lost.died)
                if sum(self._lost.values()) >= MAX_LOST or len(self._lost) >= MAX_SILENT:
                    what = f"given up after {len(self._lost)} workers were lost while they had this request"
                    raise InternalError(f"{what}, which may be what ends them", reason=LOST_REASON) from None
                with call_context.stage("queue"):
                    pool = await self._pools.answering()
                if self.pool is lost.pool:
                    self.move_on(pool)

    async def _look(
        self, operation: Operation[RgbImage, Embedding], spec: ModelSpec, picture: Picture
    ) -> tuple[Embedding, bool]:
        handle, cached = await super()._look(operation, spec, picture)
        assert isinstance(handle, Handle), "workers keep embeddings"  # noqa: S101
        return replace(handle, picture=picture), cached

    async def _made(self, key: EmbeddingKey, spec: ModelSpec, picture: Picture) -> Embedding:
        async def ask() -> Embedding:
            assert isinstance(self.pool, WorkerPool), "a worker's"  # noqa: S101
            return await self.pool.embed(self.turn, key, spec, picture, deadline_s=math.inf)

        return await self._asked(ask)


class ClusterPools(Pools):
    """The workers. Each is asked every second how it is; those that are lost are begun anew.

    Args:
        settings: The front's.
        catalogue: Its models.
        observer: Hears what workers do.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue, observer: PoolObserver) -> None:
        super().__init__({}, catalogue)
        self._settings = settings
        self._observer = observer
        self._engine = RayEngine(settings)
        self._pixels = Pixels()
        self._forgetting: list[Callable[[str], None]] = []
        self._followed: dict[int, asyncio.Task[None]] = {}
        self._failed_s: dict[int, float] = {}  # How long those that did not begin were waited for.
        self._keeping: asyncio.Task[None] | None = None
        self._changed: asyncio.Event = asyncio.Event()
        self._long_looks = 0
        self._told: Callable[[], Awaitable[None]] = _nobody

    async def begin(self, *, preload: bool) -> None:
        """Joins the cluster, and waits for the first worker, which fetches and loads its models by itself.

        Raises:
            ConnectionError: There is no cluster at the address.
        """
        await self._engine.join()
        self._keeping = asyncio.create_task(self._keep())
        log.info("waiting for a worker of the cluster")
        await self.some()

    async def close(self) -> None:
        """Leaves the cluster. Workers that no other front looks after end themselves."""
        tasks = [*self._followed.values(), *filter(None, [self._keeping])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()
        await self._engine.leave()

    def on_unload(self, forget: Callable[[str], None]) -> None:
        """See Pools; of workers that come later, too."""
        super().on_unload(forget)
        self._forgetting.append(forget)

    @property
    def is_available(self) -> bool:
        """See Pools."""
        return bool(self.by_device)

    def on_change(self, told: Callable[[], Awaitable[None]]) -> None:
        """See Pools."""
        self._told = told

    @asynccontextmanager
    async def slot(self, spec: ModelSpec, *, prefer: str = "") -> AsyncIterator[Slot]:
        """See Pools.

        Raises:
            UnavailableError: There is no worker, and none came.
        """
        async with _waiting(NONE_S):
            await self.some()
        async with super().slot(spec, prefer=prefer) as slot:
            yield slot

    def settle(self, slot: Slot, picture: Picture, spec: ModelSpec, *others: ModelSpec) -> None:
        """Moves a placed request to the worker that its picture is for, if there is room; so does every front."""
        if slot.pool.embeddings.holds(embedding_key(spec, picture.key)) or not self.by_device:
            return
        pools = list(self.by_device.values())
        pool = first(pools, picture.key, lambda pool: pool.device, lambda pool: pool.requests)
        if pool is not slot.pool:
            self._transferred(slot, pool)

    async def some(self) -> None:
        """Returns once there is a worker."""
        while not self.by_device:
            await self._next_change()

    async def answering(self) -> Pool:
        """A worker that answers now, so that one which died unnoticed does not count as lost with a request.

        Raises:
            UnavailableError: There is none, and none came.
        """
        async with _waiting(AGAIN_S):
            while True:
                await self.some()
                pool = min(self.by_device.values(), key=lambda pool: pool.requests)
                assert isinstance(pool, WorkerPool), "a worker's"  # noqa: S101
                try:
                    await pool.look()
                except WorkerLostError as lost:
                    self.part(pool, died=lost.died)
                else:
                    return pool

    def may_hold(self, pool: Pool, spec: ModelSpec) -> bool:
        """See Pools; workers are all alike."""
        return True

    def part(self, pool: WorkerPool, *, died: bool) -> None:
        """A worker is lost: nothing more goes there."""
        pool.lost(died=died)
        if self.by_device.get(pool.device) is pool:
            del self.by_device[pool.device]
            self._tell()

    def _able(self, spec: ModelSpec) -> Sequence[Pool]:
        return list(self.by_device.values())

    def _slot(self, pool: Pool, turn: Turn) -> Slot:
        return ClusterSlot(self, pool, turn)

    async def _keep(self) -> None:
        """Has as many workers as there should be, and follows those that other fronts began."""
        said = ""
        while True:
            try:
                wanted = {*range(self._settings.ray_min_workers), *await self._engine.numbers(), *self._one_more()}
                said = ""
            except Exception as error:  # noqa: BLE001 - Ray raises almost anything while its head node is away
                if (why := _said(error)) != said:  # Not every second of an outage.
                    said = why
                    log.warning("the cluster does not answer", why=why)
                wanted = set()
            for number in sorted(wanted - self._followed.keys()):
                self._followed[number] = asyncio.create_task(self._follow(number))
            await asyncio.sleep(LOOK_S)

    def _one_more(self) -> Sequence[int]:
        """The number of a worker that is to be begun since the others have long queues."""
        queued = [pool.queued_jobs for pool in self.by_device.values()]
        is_long = bool(queued) and sum(queued) >= LONG_QUEUE * len(queued)
        self._long_looks = self._long_looks + 1 if is_long else 0
        free = [number for number in range(self._settings.ray_max_workers) if number not in self._followed]
        if self._long_looks < LONG_LOOKS or not free or len(self._followed) > len(queued):
            return ()
        self._long_looks = 0
        log.info("one more worker", queued_jobs=sum(queued), workers=len(queued))
        return free[:1]

    async def _follow(self, number: int) -> None:
        """Looks after a worker until it is lost. The first look lasts until it has a node and its models.

        One that cannot begin is tried again after a while, which grows.
        """
        pool: WorkerPool | None = None
        died = True
        try:
            actor = await self._engine.worker(number)
            while True:
                async with asyncio.timeout(SILENT_S if pool else None):
                    seen = await actor.look.remote()
                if pool is None:
                    pool = self._join(f"{seen.node}/worker-{number}", actor)
                    self._failed_s.pop(number, None)
                pool.saw(seen)
                if self.by_device.get(pool.device) is not pool:  # Somebody's question found it lost.
                    return
                await asyncio.sleep(LOOK_S)
        except TimeoutError:
            died = False  # It may come back.
            log.warning("worker lost", worker=number, why=f"it says nothing for {SILENT_S:g} s")
        except Exception as error:  # noqa: BLE001 - likewise; it is begun anew
            if pool:
                log.warning("worker lost", worker=number, why=_said(error))
            else:
                again_s = min(2 * self._failed_s.get(number, LOOK_S / 2), MOST_S)
                self._failed_s[number] = again_s
                log.warning("worker does not begin", worker=number, why=_said(error), again_s=again_s)
                await asyncio.sleep(again_s)
        finally:
            if pool:
                self.part(pool, died=died)
            del self._followed[number]

    def _join(self, name: str, actor: Any) -> WorkerPool:
        settings = self._settings
        pool = WorkerPool(
            name,
            actor,
            self._pixels,
            self._observer,
            capacity=settings.max_requests_per_device,
            memory_budget_bytes=settings.memory_budget_bytes,
            embeddings_cache_bytes=settings.embeddings_cache_bytes,
        )
        pool.on_unload += self._forgetting
        self.by_device[name] = pool
        log.info("worker", name=name)
        self._tell()
        return pool

    async def _next_change(self) -> None:
        """Returns when a worker came or left, or a second later."""
        changed = self._changed
        try:
            async with asyncio.timeout(LOOK_S):
                await changed.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        """Wakes those who wait for a worker, and has health say whether there is one."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._telling = asyncio.ensure_future(self._told())


@asynccontextmanager
async def _waiting(seconds: float) -> AsyncIterator[None]:
    """Bounds a wait for a worker."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        what = "no worker of the cluster is there"
        raise UnavailableError(what, retry_after_s=5.0, reason="NO_WORKERS") from None


async def _nobody() -> None:
    """Hears of changes before anybody else does."""


def _said(error: Exception) -> str:
    """An error in one line; Ray's are pages."""
    cause = getattr(error, "cause", None) or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:600]
