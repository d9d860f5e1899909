"""All device pools together: where a request is placed."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.daemon import in_daemon_thread
from cutout_server.errors import NotFoundError
from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import ENCODE, IMAGE_FEATURES, Answer, Operation, Query
from cutout_server.models.queries import CutMask, CutQuery
from cutout_server.models.runtime import Runtime
from cutout_server.pools.admission import Who
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.pools.fair_queue import Turn
from cutout_server.pools.pool import Pool
from cutout_server.pools.retrying import until_there_is_room
from cutout_server.types import Picture, RgbImage

T = TypeVar("T")


class Slot:
    """A request's place on a device: what it asks there, it asks through this."""

    def __init__(self, pool: Pool, turn: Turn) -> None:
        self.pool = pool
        self.turn = turn
        self._taken_s = time.monotonic()
        self._asking = 0
        self._is_resting = False
        self._has_left = False
        self._resuming = asyncio.Lock()

    async def ask(self, operation: Operation[Query, Answer], spec: ModelSpec, question: Query) -> Answer:
        """One question; see `ask_all`."""
        return (await self.ask_all(operation, spec, [question]))[0]

    async def ask_all(
        self,
        operation: Operation[Query, Answer],
        spec: ModelSpec,
        questions: Sequence[Query],
        *,
        deadline_s: float | None = None,
    ) -> list[Answer]:
        """See Pool.ask; the deadline is the current call's unless another one is given."""
        until_s = call_context.current().deadline_s if deadline_s is None else deadline_s
        return await self._asked(lambda: self.pool.ask(self.turn, operation, spec, questions, deadline_s=until_s))

    async def cut(self, spec: ModelSpec, queries: Sequence[CutQuery]) -> list[list[CutMask]]:
        """See Pool.cut; the deadline is the current call's."""
        until_s = call_context.current().deadline_s
        return await self._asked(lambda: self.pool.cut(self.turn, spec, queries, deadline_s=until_s))

    async def embed(self, spec: ModelSpec, picture: Picture, until: AsyncExitStack | None = None) -> Embedding:
        """The picture's embedding, from the cache, from another's encode, or from one of its own.

        Args:
            spec: Whose.
            picture: Of what.
            until: At the end of this, one that was made here leaves the cache; without, for others.
        """
        pool, stages = self.pool, call_context.current().stages
        embedding, stages.embedding_cached = await self._look(ENCODE, spec, picture)
        if until is not None and not stages.embedding_cached:
            until.callback(pool.forget, embedding_key(spec, picture.key))
        return embedding

    async def embedding(self, spec: ModelSpec, picture: Picture) -> Embedding:
        """The same, for questions that are asked next; it may be that it is only made with the first of them."""
        return await self.embed(spec, picture)

    async def image_features(self, spec: ModelSpec, picture: Picture) -> Embedding:
        """What a detector computes of the picture alone, before it is given words; cached likewise."""
        return (await self._look(IMAGE_FEATURES, spec, picture))[0]

    async def _look(
        self, operation: Operation[RgbImage, Embedding], spec: ModelSpec, picture: Picture
    ) -> tuple[Embedding, bool]:
        """The embedding that an operation makes of a picture, and whether it was cached or being made already."""
        started_s = time.monotonic()
        key = embedding_key(spec, picture.key, operation)
        embedding, cached = await self.pool.embeddings.get(key, lambda: self._made(key, spec, picture))
        if cached:
            call_context.spent(operation.stage, started_s)
        return embedding, cached

    async def _made(self, key: EmbeddingKey, spec: ModelSpec, picture: Picture) -> Embedding:
        """The embedding of a picture, as its key says."""
        pixels = picture.pixels if picture.is_decoded else await asyncio.to_thread(lambda: picture.pixels)
        # Others may wait for it too, with deadlines of their own: cancelling is what ends it.
        return (await self.ask_all(key.operation, spec, [pixels], deadline_s=math.inf))[0]

    def rest(self) -> bool:
        """Gives the slot back until the next question, unless one is under way; says whether it is given back."""
        if not self._asking and not self._is_resting:
            self._give_back()
            self._is_resting = True
        return self._is_resting

    def move(self, pool: Pool, turn: Turn) -> None:
        """Gives the slot back and has another one, which was taken on that device."""
        self._give_back()
        self.pool, self.turn, self._taken_s = pool, turn, time.monotonic()

    def leave(self) -> None:
        """Gives the slot back for good: what is still asked here, for others who wait for it too, takes none again."""
        self._has_left = True
        if not self._is_resting:
            self._give_back()

    def _give_back(self) -> None:
        self.pool.leave(self.turn, time.monotonic() - self._taken_s)

    def move_on(self, pool: Pool) -> None:
        """Gives the slot back; the next question takes one at another pool."""
        if not self._is_resting and not self._has_left:
            self._give_back()
        self.pool, self._is_resting = pool, True

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the pool answers to a question that is put to it once the request has a slot there."""
        self._asking += 1
        try:
            await self._resume()
            return await ask()
        finally:
            self._asking -= 1

    async def _resume(self) -> None:
        async with self._resuming:
            if self._is_resting:
                await until_there_is_room(self._take_again)

    async def _take_again(self) -> None:
        if self._has_left:
            return
        self.turn = self.pool.admit(*_caller_and_quota(), deadline_s=self.turn.deadline_s)
        self._taken_s = time.monotonic()
        self._is_resting = False


class Pools:
    """The pools by device."""

    def __init__(self, pools: Mapping[str, Pool], catalogue: Catalogue) -> None:
        self.by_device = dict(pools)
        self._catalogue = catalogue

    @asynccontextmanager
    async def slot(self, spec: ModelSpec, *, prefer: str = "") -> AsyncIterator[Slot]:
        """Places a request on the device with the fewest requests that may hold the model; on `prefer` if it has room.

        Raises:
            OverloadedError: Every such device is full; known at once, before any work was done.
            QuotaError: The caller has as many slots as it may.
        """
        call, (caller, quota) = call_context.current(), _caller_and_quota()
        pool = min(
            self._able(spec),
            key=lambda pool: (
                not pool.admission.expects(caller),
                not pool.admission.has_room(caller, quota),
                pool.device != prefer,
                pool.requests,
            ),
        )
        slot = self._slot(pool, pool.admit(caller, quota, deadline_s=call.deadline_s))
        call.account.requests_in_hand += 1
        try:
            with call_context.may_rest(slot):
                yield slot
        finally:
            call.account.requests_in_hand -= 1
            slot.leave()

    def on_unload(self, forget: Callable[[str], None]) -> None:
        """Has `forget` called with the name of each model that leaves a device, on the event loop."""
        for pool in self.by_device.values():
            pool.on_unload.append(forget)

    @property
    def is_available(self) -> bool:
        """Whether there is a device to ask: always, of this machine's own."""
        return True

    def on_change(self, told: Callable[[], Awaitable[None]]) -> None:
        """Has `told` called when devices come or leave, which this machine's own do not."""

    def may_hold(self, pool: Pool, spec: ModelSpec) -> bool:
        """Whether a model may be loaded there."""
        return pool in self._able(spec)

    def has_embedded(self, spec: ModelSpec, picture_key: str) -> bool:
        """Whether a device has a picture's embedding, or will have it soon."""
        key = embedding_key(spec, picture_key)
        return any(pool.embeddings.holds(key) for pool in self._able(spec))

    def settle(self, slot: Slot, picture: Picture, spec: ModelSpec, *others: ModelSpec) -> None:
        """Moves a placed request to the device that has the picture's embedding already, if there is room.

        `others` are the models that the request uses beside the one that embeds; those that can run where it sits now
        must be able to run there too.
        """
        key = embedding_key(spec, picture.key)
        if slot.pool.embeddings.holds(key):
            return
        sharing = [other for other in others if self.may_hold(slot.pool, other)]
        for pool in self._able(spec):
            holds = pool.embeddings.holds(key) and all(self.may_hold(pool, other) for other in sharing)
            if holds and self._transferred(slot, pool):
                return

    async def load(self, spec: ModelSpec, device: str = "") -> None:
        """Loads a model onto a device, or onto each that may hold it."""
        await asyncio.gather(*(pool.load(spec) for pool in self._chosen(spec, device)))

    async def unload(self, spec: ModelSpec, device: str = "") -> None:
        """Unloads a model from a device, or from each."""
        await asyncio.gather(*(pool.unload(spec.name) for pool in self._chosen(spec, device)))

    def loaded(self, spec: ModelSpec) -> dict[str, int]:
        """Bytes that a model takes on each device that holds it now."""
        sizes = {device: pool.models.sizes() for device, pool in list(self.by_device.items())}
        return {device: models[spec.name] for device, models in sizes.items() if spec.name in models}

    def loads(self, pool: Pool) -> dict[str, int]:
        """How often each model that a device may hold was loaded there."""
        able = (spec.name for spec in self._catalogue.specs.values() if self.may_hold(pool, spec))
        return {name: pool.models.loads.get(name, 0) for name in able}

    def runtimes(self, spec: ModelSpec) -> list[Runtime]:
        """What runs a model's encoder on the devices that hold it now."""
        return [runtime for pool in self.by_device.values() if (runtime := pool.models.runtimes().get(spec.name))]

    async def begin(self, *, preload: bool) -> None:
        """Downloads what is missing and, with `preload`, loads what is configured, so that no request waits for it.

        Raises:
            CutoutError: A model cannot be had or loaded.
        """
        for spec in self._catalogue.specs.values():
            await in_daemon_thread(spec.fetch, f"fetch-{spec.name}")
        for spec in self._catalogue.specs.values():
            if preload:
                await self.load(spec)

    async def close(self) -> None:
        """Stops every worker."""
        await asyncio.gather(*(pool.close() for pool in self.by_device.values()))

    def _able(self, spec: ModelSpec) -> Sequence[Pool]:
        """The pools that may hold a model."""
        return [self.by_device[device] for device in spec.devices]

    def _slot(self, pool: Pool, turn: Turn) -> Slot:
        return Slot(pool, turn)

    def _transferred(self, slot: Slot, pool: Pool) -> bool:
        """Moves a placed request to another pool, if there is room."""
        caller, quota = _caller_and_quota()
        has_room = pool.admission.has_room(caller, quota)
        if has_room:
            slot.move(pool, pool.admit(caller, quota, deadline_s=slot.turn.deadline_s))
        return has_room

    def _chosen(self, spec: ModelSpec, device: str) -> Sequence[Pool]:
        pools = self._able(spec)
        chosen = [pool for pool in pools if device in ("", pool.device)]
        if device and not chosen:
            raise NotFoundError(
                f"model {spec.name!r} has no device {device!r}; expected one of {[pool.device for pool in pools]}",
                reason="DEVICE_NOT_FOUND",
            )
        return chosen


def _caller_and_quota() -> tuple[Who, int]:
    """Who asks for a slot, and how many it may have beside its share."""
    call = call_context.current()
    return Who(call.party, call.peer), call.account.quotas.requests_in_hand


def embedding_key(
    spec: ModelSpec, picture_key: str, operation: Operation[RgbImage, Embedding] = ENCODE
) -> EmbeddingKey:
    """What the current call's embedding of a picture goes by."""
    return EmbeddingKey(call_context.current().caller, spec.name, picture_key, operation)
