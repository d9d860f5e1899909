"""The embeddings cache of one device: bounded in bytes, and one encode however many ask at once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cutout_server.models.base import Embedding


@dataclass(frozen=True)
class EmbeddingKey:
    """What an embedding depends on; preprocessing is the model's own, so its name stands for both."""

    model: str
    pixels_sha256: str


@dataclass
class _Flight:
    task: asyncio.Task[Embedding]
    waiters: int = 0


class EmbeddingsCache:
    """Least recently used embeddings leave first. Belongs to the event loop; nothing here blocks."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._flights: dict[EmbeddingKey, _Flight] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether it is here, or on its way."""
        return key in self._entries or key in self._flights

    async def get(self, key: EmbeddingKey, encode: Callable[[], Awaitable[Embedding]]) -> tuple[Embedding, bool]:
        """The embedding, and whether it was here or on its way already.

        `encode` runs once for all that wait for the same key. It is cancelled when the last of them has left, not when
        the first one does.
        """
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key], True
        flight = self._flights.get(key)
        joined = flight is not None
        if flight is None:
            self.misses += 1
            flight = self._flights[key] = _Flight(asyncio.ensure_future(self._fly(key, encode)))
        else:
            self.hits += 1
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task), joined
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                flight.task.cancel()
                # Gone at once, so that nobody boards a flight that is about to be cancelled.
                self._land(key, flight.task)

    def drop_model(self, model: str) -> None:
        """Forgets every embedding of a model."""
        for key in [key for key in self._entries if key.model == model]:
            self.bytes -= self._entries.pop(key).nbytes

    async def _fly(self, key: EmbeddingKey, encode: Callable[[], Awaitable[Embedding]]) -> Embedding:
        try:
            embedding = await encode()
            self._keep(key, embedding)
            return embedding
        finally:
            self._land(key, asyncio.current_task())

    def _land(self, key: EmbeddingKey, task: asyncio.Task[Any] | None) -> None:
        if key in self._flights and self._flights[key].task is task:
            del self._flights[key]

    def _keep(self, key: EmbeddingKey, embedding: Embedding) -> None:
        if embedding.nbytes > self.capacity_bytes:
            return
        if (old := self._entries.pop(key, None)) is not None:
            self.bytes -= old.nbytes
        self._entries[key] = embedding
        self.bytes += embedding.nbytes
        while self.bytes > self.capacity_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.nbytes
