"""Pictures in the cluster's object store, which carries their pixels to the workers' nodes."""

import asyncio
import time
import weakref
from typing import Any

import ray

from cutout_server import call_context
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.types import Picture


class _Put:
    """A picture on its way to the object store."""

    def __init__(self, picture: Picture) -> None:
        self.task = asyncio.create_task(self._put(picture))

    @staticmethod
    async def _put(picture: Picture) -> Any:
        began_s = time.monotonic()
        where = await asyncio.to_thread(lambda: ray.put(picture.pixels))
        call_context.current().span.part("put", began_s, time.monotonic())
        return where

    @property
    def failed(self) -> bool:
        """Whether it did not come there."""
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class Pixels:
    """Pictures in the cluster's object store, each for as long as the front has one like it in hand."""

    def __init__(self) -> None:
        self._put: weakref.WeakValueDictionary[tuple[str, str], _Put] = weakref.WeakValueDictionary()
        self._in_hand: dict[int, _Put] = {}

    async def of(self, key: EmbeddingKey, picture: Picture) -> Any:
        """Where a picture's pixels are; they cross to each node once, however many of a caller's requests ask."""
        whose, number = (key.caller, key.picture), id(picture)
        put = self._put.get(whose)
        if put is None or put.failed:
            put = self._put[whose] = _Put(picture)
        if number not in self._in_hand:
            weakref.finalize(picture, self._in_hand.pop, number, None)
        self._in_hand[number] = put
        return await asyncio.shield(put.task)
