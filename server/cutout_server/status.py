"""The server at one moment, read by GetStatus and by the metrics alike."""

import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from cutout_common import __version__
from cutout_common.commit import commit

from cutout_server.callers.accounts import Accounts, Use
from cutout_server.images.store import ImageStore
from cutout_server.pools.placement import Pools
from cutout_server.pools.pool import Pool
from cutout_server.pools.remembered import Remembered


class State(Enum):
    """Whether requests are taken."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Cache(Protocol):
    """Anything that keeps what may be asked for again."""

    bytes: int
    capacity_bytes: int
    hits: int
    misses: int

    def __len__(self) -> int:
        """Entries."""
        ...


@dataclass(frozen=True)
class CacheStatus:
    """A cache."""

    entries: int
    bytes: int
    capacity_bytes: int
    hits: int
    misses: int


@dataclass(frozen=True)
class DeviceStatus:
    """One device.

    Attributes:
        models: Bytes by name, the least recently used first.
        loads: How often each of the models that it may hold was loaded.
        remade: Embeddings that were made once more, as they had to leave the cache for others.
    """

    name: str
    models: dict[str, int]
    loads: dict[str, int]
    requests: int
    queued_jobs: int
    capacity: int
    jobs: int
    batches: int
    memory_budget_bytes: int
    memory_used_bytes: int
    memory_total_bytes: int
    embeddings: CacheStatus
    remade: int


@dataclass(frozen=True)
class TrackingStatus:
    """Sessions that follow objects, and what they remember of these."""

    sessions: int
    objects: int
    memory_bytes: int
    reserved_bytes: int
    capacity_bytes: int
    frames: int
    dropped_frames: int


@dataclass(frozen=True)
class ServerStatus:
    """Everything at once."""

    version: str
    commit: str
    state: State
    uptime_s: float
    devices: tuple[DeviceStatus, ...]
    answers: CacheStatus
    stored_images: int
    stored_bytes: int
    store_capacity_bytes: int
    store_available: bool
    callers: tuple[Use, ...]
    tracking: TrackingStatus
    tracked_frames: dict[str, int]


class StatusBoard:
    """Knows the state of the server and reads the rest from where it is."""

    def __init__(
        self, pools: Pools, store: ImageStore, answers: Cache, accounts: Accounts, remembered: Remembered
    ) -> None:
        self.state = State.STARTING
        self._pools = pools
        self._store = store
        self._answers = answers
        self._accounts = accounts
        self._remembered = remembered
        self._started_s = time.monotonic()

    def read(self) -> ServerStatus:
        """A snapshot. Safe from any thread: it only reads."""
        return ServerStatus(
            version=__version__,
            commit=commit(),
            state=self.state,
            uptime_s=time.monotonic() - self._started_s,
            devices=tuple(map(self._device, list(self._pools.by_device.values()))),
            answers=_status(self._answers),
            stored_images=len(self._store),
            stored_bytes=self._store.bytes,
            store_capacity_bytes=self._store.max_bytes,
            store_available=self._store.is_available,
            callers=tuple(self._accounts.uses()),
            tracking=self._tracking(),
            tracked_frames=dict(self._remembered.frames),
        )

    def _tracking(self) -> TrackingStatus:
        remembered = self._remembered
        return TrackingStatus(
            sessions=remembered.sessions,
            objects=remembered.objects,
            memory_bytes=remembered.bytes,
            reserved_bytes=remembered.reserved_bytes,
            capacity_bytes=remembered.capacity_bytes,
            frames=sum(remembered.frames.values()),
            dropped_frames=remembered.dropped,
        )

    def _device(self, pool: Pool) -> DeviceStatus:
        used, total = pool.memory()
        return DeviceStatus(
            name=pool.device,
            models=pool.models.sizes(),
            loads=self._pools.loads(pool),
            requests=pool.requests,
            queued_jobs=pool.queued_jobs,
            capacity=pool.capacity,
            jobs=pool.jobs,
            batches=pool.batches,
            memory_budget_bytes=pool.models.budget_bytes,
            memory_used_bytes=used,
            memory_total_bytes=total,
            embeddings=_status(pool.embeddings),
            remade=pool.embeddings.remade,
        )


def _status(cache: Cache) -> CacheStatus:
    return CacheStatus(len(cache), cache.bytes, cache.capacity_bytes, cache.hits, cache.misses)
