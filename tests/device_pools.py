"""A device pool with a model whose timing the test controls, and what is asked of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.models.family import Family
from cutout_server.models.operations import DECODE
from cutout_server.models.queries import DecodeQuery
from cutout_server.pools.device import DevicePool
from cutout_server.pools.fair_queue import Turn
from cutout_server.settings import ModelSettings
from cutout_server.types import Box, ObjectPrompt, Task
from probe_family import Probe, ProbeEmbedding

FOREVER = float("inf")


@dataclass
class Watcher:
    """Notes what a pool tells."""

    batches: list[tuple[str, int]] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)

    def waited(self, device: str, seconds: float) -> None:
        assert seconds >= 0

    def batched(self, device: str, operation: str, size: int) -> None:
        self.batches.append((operation, size))

    def dropped(self, device: str, why: str) -> None:
        self.drops.append(why)


def spec_of(probe: Probe, name: str = "probe", devices: tuple[str, ...] = ("cpu",)) -> ModelSpec:
    family = Family("probe", frozenset({Task.SEGMENT}), lambda *_: probe, needs_checkpoint=False)
    return ModelSpec(ModelSettings(name=name, family="probe"), family, devices, frozenset())


@asynccontextmanager
async def open_pool(watcher: Watcher | None = None, **options: int) -> AsyncIterator[DevicePool]:
    defaults = {
        "capacity": 8,
        "max_batch": 4,
        "max_encode_batch": 2,
        "memory_budget_bytes": 0,
        "embeddings_cache_bytes": 10_000,
    }
    pool = DevicePool("cpu", observer=watcher or Watcher(), **defaults | options)
    call_context.begin(call_context.Call("id", "caller", FOREVER))
    try:
        yield pool
    finally:
        await pool.close()


def query(x_min: float = 0) -> DecodeQuery:
    return DecodeQuery(ProbeEmbedding((8, 32), 51.0), ObjectPrompt(box=Box(x_min, 0, x_min + 4, 4)), False)


async def ask(
    pool: DevicePool, spec: ModelSpec, *queries: DecodeQuery, turn: Turn | None = None, deadline_s: float = FOREVER
):
    turn = turn or pool.fair_queue.take("caller", FOREVER)
    return await pool.ask(turn, DECODE, spec, queries, deadline_s=deadline_s)
