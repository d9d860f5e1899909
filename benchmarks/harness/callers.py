"""Callers that ask one picture after the other, and what else is asked of the server meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import httpx
from cutout_client import AsyncClient, OverloadedError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness.photographs import boxes
from harness.servers import Running

Ask = Callable[[bytes], Awaitable[object]]


@dataclass
class Load:
    """What callers saw.

    Attributes:
        ends: Moment of each answer, in seconds of one clock.
        latencies: Seconds of each answered call, in the same order.
        refused: Calls that found the queue full.
        delays: Seconds after which those were told to come again.
    """

    ends: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    delays: list[float] = field(default_factory=list)

    @property
    def refused_share(self) -> float:
        """Of all calls."""
        return self.refused / max(1, self.refused + len(self.ends))


@dataclass(frozen=True)
class Probe:
    """Seconds that others waited while the callers were busy."""

    health: list[float]
    metrics: list[float]


async def call(ask: Ask, callers: int, files: Sequence[bytes]) -> Load:
    """Lets callers ask at once, one file after the other each, until every file is answered.

    A caller that is turned away comes again with the same file after the delay that it was told.
    """
    load, waiting = Load(), list(reversed(files))

    async def one() -> None:
        while waiting:
            file = waiting.pop()
            while not await _answered(ask, file, load):
                pass

    tasks = [asyncio.create_task(one()) for _ in range(callers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return load


async def _answered(ask: Ask, file: bytes, load: Load) -> bool:
    started = time.perf_counter()
    try:
        await ask(file)
    except OverloadedError as error:
        load.refused += 1
        delay = error.retry_after_s or 0.0
        load.delays.append(delay)
        await asyncio.sleep(max(delay, 0.01))
        return False
    now = time.perf_counter()
    load.ends.append(now)
    load.latencies.append(now - started)
    return True


async def serve_callers(
    server: Running, callers: int, files: Sequence[bytes], size: tuple[int, int]
) -> tuple[Load, Probe]:
    """`call` by gRPC with one box each, 8 callers to a connection, while health and metrics are asked."""
    clients = [AsyncClient(server.address, retries=0, timeout_s=600) for _ in range(-(-callers // 8))]
    box = boxes(1, size)
    turn = 0

    async def ask(file: bytes) -> object:
        nonlocal turn
        turn += 1
        return await clients[turn % len(clients)].segment_box(file, box)

    try:
        async with probing(health_by_grpc(server.address), metrics_by_http(server.metrics_url)) as probe:
            load = await call(ask, callers, files)
        return load, probe
    finally:
        await asyncio.gather(*(client.close() for client in clients))


class probing:  # noqa: N801 - used as `async with probing(...) as probe`
    """Asks all the time, health 10 times and metrics once a second, and leaves the seconds in a `Probe`."""

    def __init__(self, health: Callable[[], Awaitable[object]], metrics: Callable[[], Awaitable[object]]) -> None:
        self._asked = ((health, 0.1), (metrics, 1.0))

    async def __aenter__(self) -> Probe:
        probe = Probe([], [])
        lists = (probe.health, probe.metrics)
        self._tasks = [asyncio.create_task(_repeat(*each, into)) for each, into in zip(self._asked, lists, strict=True)]
        return probe

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _repeat(ask: Callable[[], Awaitable[object]], every_s: float, into: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await ask()
        into.append(time.perf_counter() - started)
        await asyncio.sleep(every_s)


def health_by_grpc(address: str) -> Callable[[], Awaitable[object]]:
    """grpc.health.v1 over a connection of its own."""
    channel = grpc.aio.insecure_channel(address)
    stub = health_pb2_grpc.HealthStub(channel)
    return lambda: stub.Check(health_pb2.HealthCheckRequest())


def metrics_by_http(url: str) -> Callable[[], Awaitable[object]]:
    """A page over a connection of its own."""
    client = httpx.AsyncClient(timeout=600, trust_env=False)
    return lambda: client.get(url)
