"""Single flight: what several want at once is made once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class _Flight(Generic[V]):
    task: asyncio.Task[V]
    waiters: int = 0


class SingleFlight(Generic[K, V]):
    """Work under way, by what it is for. Belongs to the event loop."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    async def join(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """What `work` gives, or what another's work for the same key gives that is under way already.

        It is cancelled when the last of those who wait for it has left, not when the first one does.

        Raises:
            Exception: What the work raises, in all that wait for it.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(self._fly(key, work)))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                flight.task.cancel()
                # Removed at once, so that nobody joins work that is about to be cancelled.
                self._land(key, flight.task)

    async def _fly(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        try:
            return await work()
        finally:
            self._land(key, asyncio.current_task())

    def _land(self, key: K, task: asyncio.Task[Any] | None) -> None:
        if key in self._flights and self._flights[key].task is task:
            del self._flights[key]
