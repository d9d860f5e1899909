"""Frames that come faster than they are worked on: the newest one goes on, and those that it overtook are named."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Self

from cutout.v1.tracking_service_pb2 import TrackObjectsRequest

from cutout_server import call_context

Numbered = tuple[int, TrackObjectsRequest]

_MOST = 2  # Messages that wait; they are megabytes each. Only a plain frame gives way, so that the last one may be one.


class _Waiting(NamedTuple):
    """A message that was read, and what gives the room of its bytes back."""

    number: int
    message: TrackObjectsRequest
    give_back: Callable[[], None]

    @property
    def gives_way(self) -> bool:
        """Whether a later frame may take its place."""
        is_frame = self.message.WhichOneof("message") == "frame"
        return is_frame and not (self.message.frame.prompts or self.message.frame.phrases)


class Newest:
    """Messages in their order, read ahead, of which frames without prompts and phrases give way to later frames.

    All that were read count to the bytes of the call until they are done. Use it in an `async with` block.

    Args:
        messages: With their numbers, as they come.
    """

    def __init__(self, messages: AsyncIterator[Numbered]) -> None:
        self._messages = messages
        self._waiting: deque[_Waiting] = deque()
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
                first = self._waiting.popleft()
                self._changed.notify_all()
            yield first.number, first.message
            first.give_back()
        await self._reading  # Raises what ended it.

    def dropped(self) -> list[int]:
        """The frames that gave way since this was asked last."""
        dropped, self._dropped = self._dropped, []
        return dropped

    async def _read(self) -> None:
        try:
            async for number, message in self._messages:
                read = _Waiting(number, message, call_context.current().keep_message())
                async with self._changed:
                    if message.WhichOneof("message") == "frame" and self._waiting and self._waiting[-1].gives_way:
                        overtaken = self._waiting.pop()
                        self._dropped.append(overtaken.message.frame.frame_index)
                        overtaken.give_back()
                    self._waiting.append(read)
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: len(self._waiting) < _MOST or self._waiting[-1].gives_way)
        finally:
            async with self._changed:
                self._has_ended = True
                self._changed.notify_all()
