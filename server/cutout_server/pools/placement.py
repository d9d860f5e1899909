"""All device pools together: where a request is placed."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.errors import NotFoundError
from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import ENCODE, IMAGE_FEATURES, Answer, Operation, Query
from cutout_server.models.runtime import Runtime
from cutout_server.pools.admission import Who
from cutout_server.pools.device import DevicePool
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.pools.fair_queue import Turn
from cutout_server.pools.retrying import until_there_is_room
from cutout_server.types import Picture, RgbImage


class Slot:
    """A request's place on a device: what it asks there, it asks through this."""

    def __init__(self, pool: DevicePool, turn: Turn) -> None:
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
        """See DevicePool.ask; the deadline is the current call's unless another one is given."""
        if deadline_s is None:
            deadline_s = call_context.current().deadline_s
        self._asking += 1
        try:
            await self._resume()
            return await self.pool.ask(self.turn, operation, spec, questions, deadline_s=deadline_s)
        finally:
            self._asking -= 1

    async def embed(self, spec: ModelSpec, picture: Picture) -> Embedding:
        """The picture's embedding, from the cache, from another's encode, or from one of its own."""
        embedding, call_context.current().stages.embedding_cached = await self._look(ENCODE, spec, picture)
        return embedding

    async def image_features(self, spec: ModelSpec, picture: Picture) -> Embedding:
        """What a detector computes of the picture alone, before it is given words; cached likewise."""
        return (await self._look(IMAGE_FEATURES, spec, picture))[0]

    async def _look(
        self, operation: Operation[RgbImage, Embedding], spec: ModelSpec, picture: Picture
    ) -> tuple[Embedding, bool]:
        """The embedding that an operation makes of a picture, and whether it was cached or being made already."""
        started_s = time.monotonic()

        async def encode() -> Embedding:
            pixels = picture.pixels if picture.is_decoded else await asyncio.to_thread(lambda: picture.pixels)
            # Others may wait for it too, with deadlines of their own: cancelling is what ends it.
            return (await self.ask_all(operation, spec, [pixels], deadline_s=math.inf))[0]

        key = _key(spec, picture.key, operation)
        embedding, cached = await self.pool.embeddings.get(key, encode)
        if cached:
            call_context.spent(operation.stage, started_s)
        return embedding, cached

    def step_back(self) -> None:
        """Lets requests go first that came meanwhile; work of many long passes calls it between passes."""
        if not self._is_resting:
            self.pool.fair_queue.step_back(self.turn)

    def rest(self) -> bool:
        """Gives the slot back until the next question, unless one is under way; says whether it is given back."""
        if not self._asking and not self._is_resting:
            self._give_back()
            self._is_resting = True
        return self._is_resting

    def move(self, pool: DevicePool, turn: Turn) -> None:
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

    def __init__(self, pools: dict[str, DevicePool], catalogue: Catalogue) -> None:
        self.by_device = pools
        self._catalogue = catalogue

    @asynccontextmanager
    async def slot(self, spec: ModelSpec, *, prefer: str = "") -> AsyncIterator[Slot]:
        """Places a request on the device with the fewest requests that may hold the model; on `prefer` if it has room.

        Raises:
            OverloadedError: Every such device is full; known at once, before any work was done.
            QuotaError: The caller has as many slots as it may.
        """
        call, (caller, quota) = call_context.current(), _caller_and_quota()
        pools = (self.by_device[device] for device in spec.devices)
        pool = min(
            pools,
            key=lambda pool: (
                not pool.admission.expects(caller),
                not pool.admission.has_room(caller, quota),
                pool.device != prefer,
                pool.requests,
            ),
        )
        slot = Slot(pool, pool.admit(caller, quota, deadline_s=call.deadline_s))
        call.account.requests_in_hand += 1
        call.resting.append(slot)
        try:
            yield slot
        finally:
            call.account.requests_in_hand -= 1
            call.resting.remove(slot)
            slot.leave()

    def on_unload(self, forget: Callable[[str], None]) -> None:
        """Has `forget` called with the name of each model that leaves a device, on the event loop."""
        for pool in self.by_device.values():
            pool.on_unload.append(forget)

    def has_embedded(self, spec: ModelSpec, picture_key: str) -> bool:
        """Whether a device has a picture's embedding, or will have it soon."""
        key = _key(spec, picture_key)
        return any(self.by_device[device].embeddings.holds(key) for device in spec.devices)

    def settle(self, slot: Slot, picture: Picture, spec: ModelSpec, *others: ModelSpec) -> None:
        """Moves a placed request to the device that has the picture's embedding already, if there is room.

        `others` are the models that the request uses beside the one that embeds; those that can run where it sits now
        must be able to run there too.
        """
        key = _key(spec, picture.key)
        if slot.pool.embeddings.holds(key):
            return
        caller, quota = _caller_and_quota()
        sharing = [other for other in others if slot.pool.device in other.devices]
        for device in spec.devices:
            pool = self.by_device[device]
            serves_all = all(device in other.devices for other in sharing)
            if serves_all and pool.embeddings.holds(key) and pool.admission.has_room(caller, quota):
                slot.move(pool, pool.admit(caller, quota, deadline_s=slot.turn.deadline_s))
                return

    async def load(self, spec: ModelSpec, device: str = "") -> None:
        """Loads a model onto a device, or onto each that may hold it."""
        await asyncio.gather(*(self.by_device[name].load(spec) for name in self._devices(spec, device)))

    async def unload(self, spec: ModelSpec, device: str = "") -> None:
        """Unloads a model from a device, or from each."""
        await asyncio.gather(*(self.by_device[name].unload(spec.name) for name in self._devices(spec, device)))

    def loaded(self, spec: ModelSpec) -> dict[str, int]:
        """Bytes that a model takes on each device that holds it now."""
        sizes = {device: pool.models.sizes() for device, pool in self.by_device.items()}
        return {device: models[spec.name] for device, models in sizes.items() if spec.name in models}

    def loads(self, device: str) -> dict[str, int]:
        """How often each model that a device may hold was loaded there."""
        loads = self.by_device[device].models.loads
        return {name: loads.get(name, 0) for name, spec in self._catalogue.specs.items() if device in spec.devices}

    def runtimes(self, spec: ModelSpec) -> list[Runtime]:
        """What runs a model's encoder on the devices that hold it now."""
        return [runtime for pool in self.by_device.values() if (runtime := pool.models.runtimes().get(spec.name))]

    async def preload(self) -> None:
        """Loads what is configured, so that no request waits for it."""
        for spec in self._catalogue.specs.values():
            await self.load(spec)

    async def close(self) -> None:
        """Stops every worker."""
        await asyncio.gather(*(pool.close() for pool in self.by_device.values()))

    def _devices(self, spec: ModelSpec, device: str) -> tuple[str, ...]:
        if device and device not in spec.devices:
            raise NotFoundError(
                f"model {spec.name!r} has no device {device!r}; expected one of {list(spec.devices)}",
                reason="DEVICE_NOT_FOUND",
            )
        return (device,) if device else spec.devices


def _caller_and_quota() -> tuple[Who, int]:
    """Who asks for a slot, and how many it may have beside its share."""
    call = call_context.current()
    return Who(call.party, call.peer), call.account.quotas.requests_in_hand


def _key(spec: ModelSpec, picture_key: str, operation: Operation[RgbImage, Embedding] = ENCODE) -> EmbeddingKey:
    return EmbeddingKey(call_context.current().caller, spec.name, picture_key, operation)
