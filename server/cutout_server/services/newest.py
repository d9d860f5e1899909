"""Frames that come faster than they are worked on: the newest one goes on, and those that it overtook are named."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from cutout.v1.tracking_service_pb2 import TrackObjectsRequest

Numbered = tuple[int, TrackObjectsRequest]

_MOST = 2  # Messages that wait; they are megabytes each. Only a plain frame gives way, so that the last one may be one.


class Newest:
    """Messages in their order, read ahead, of which frames without prompts and phrases give way to later frames.

    Use it in an `async with` block.

    Args:
        messages: With their numbers, as they come.
    """

    def __init__(self, messages: AsyncIterator[Numbered]) -> None:
        self._messages = messages
        self._waiting: deque[Numbered] = deque()
        self._dropped: list[int] = []
        self._changed = asyncio.Condition()
        self._has_ended = False

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[Numbered]:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting or self._has_ended)
                if not self._waiting:
                    break
                message = self._waiting.popleft()
                self._changed.notify_all()
            yield message
        await self._reading  # Raises what ended it.

    def dropped(self) -> list[int]:
        """The frames that gave way since this was asked last."""
        dropped, self._dropped = self._dropped, []
        return dropped

    async def _read(self) -> None:
        try:
            async for numbered in self._messages:
                async with self._changed:
                    if numbered[1].WhichOneof("message") == "frame" and self._waiting and _gives_way(self._waiting[-1]):
                        self._dropped.append(self._waiting.pop()[1].frame.frame_index)
                    self._waiting.append(numbered)
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: len(self._waiting) < _MOST or _gives_way(self._waiting[-1]))
        finally:
            async with self._changed:
                self._has_ended = True
                self._changed.notify_all()


def _gives_way(numbered: Numbered) -> bool:
    message = numbered[1]
    return message.WhichOneof("message") == "frame" and not (message.frame.prompts or message.frame.phrases)
