"""Frames in, the objects in them out, as they come, for asyncio."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Self

import grpc

from cutout_client.diagnosis import translated_async
from cutout_client.images import ImageLike
from cutout_client.limits import late
from cutout_client.link import AsyncLink
from cutout_client.live import Live
from cutout_client.live_journal import Request, Said
from cutout_client.live_state import LiveState, Response
from cutout_client.retrying import interrupted, retried_async
from cutout_client.tracked import Frame, TrackedFrame
from cutout_client.transport import Call, Stubs

Steps = asyncio.Queue[Request | None]

_END: Any = object()


class AsyncLiveStream(Live):
    """As `LiveStream`, for asyncio: `async for frame in client.live(...)`. Frames may come from an async iterator.

    Attributes:
        tracker: The model that serves the session, once it is open.
        resumed: How often the session was opened anew because its server was lost or stopped.
    """

    def __init__(
        self,
        link: Callable[[], AsyncLink],
        frames: Iterable[ImageLike | Frame] | AsyncIterable[ImageLike | Frame],
        state: LiveState,
        *,
        resume: bool,
    ) -> None:
        super().__init__(state, resume=resume)
        self._frames = frames
        self._changed = asyncio.Event()
        self._link = link
        self._steps: Steps | None = None
        self._taking: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TrackedFrame:
        if not self._is_open:
            await self._open(self._state.call(again=False))
            self._is_open = True
            self._taking = asyncio.create_task(self._take())
        while True:
            self._state.go_on()
            self._changed.set()
            frame = self._state.answered(await self._receive())
            if frame is not None:
                return frame

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session; frames that are under way are not answered."""
        self._over = True
        self._changed.set()
        if self._rpc is not None:
            self._rpc.cancel()
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait([self._taking])

    def _say(self, said: Said) -> None:
        super()._say(said)
        self._changed.set()

    async def _until(self, ready: Callable[[], Any]) -> None:
        while not ready():
            self._changed.clear()
            await self._changed.wait()

    async def _receive(self) -> Response:
        try:
            while True:
                try:
                    message: Response | Any = await self._rpc.read()
                except grpc.RpcError as failure:
                    await self._resume(failure)
                    continue
                if message is grpc.aio.EOF:
                    self._state.end()
                    raise StopAsyncIteration
                if not self._state.is_to_begin_anew(message):
                    return message
                self._rpc.cancel()
                await self._open(self._state.call(again=True))
        except BaseException:
            await self.close()
            raise

    async def _resume(self, failure: grpc.RpcError) -> None:
        """As `LiveStream._resume`."""
        call = self._state.call(again=True)
        async with translated_async(call):
            if self._over or not self._resumes:
                raise failure
            pause_s = interrupted(call, self._link(), failure)
        await asyncio.sleep(pause_s)
        await self._open(call)
        self.resumed += 1

    async def _open(self, call: Call) -> None:
        replay = self._state.replay()

        async def attempt(stubs: Stubs) -> None:
            steps: Steps = asyncio.Queue()
            self._rpc = rpc = stubs.tracking.TrackObjects(self._requests(steps), metadata=call.metadata)
            try:
                async with asyncio.timeout(call.remaining_s()):
                    await self._begin(rpc, steps, replay, call)
            except TimeoutError:
                rpc.cancel()
                raise await asyncio.to_thread(late, call) from None
            except BaseException:
                rpc.cancel()
                raise
            finally:
                steps.put_nowait(None)

        await retried_async(call, self._link(), attempt)

    async def _begin(self, rpc: Any, steps: Steps, replay: Sequence[Said], call: Call) -> None:
        """As `LiveStream._begin`."""
        for said in (Said(self._state.opening), *replay):
            steps.put_nowait(await asyncio.to_thread(self._state.message, said))
            message = await rpc.read()
            answer = self._state.replayed(None if message is grpc.aio.EOF else message, said, call)
            self.tracker = answer.opened.tracker or self.tracker
        self._state.begin(call, len(replay))
        self._steps = steps
        self._changed.set()

    async def _requests(self, steps: Steps) -> AsyncIterator[Request]:
        while (request := await steps.get()) is not None:
            yield request
        while (said := await self._next(steps)) is not None:
            try:
                request = await asyncio.to_thread(self._state.message, said)
            except Exception as failure:  # noqa: BLE001 - it is of the caller's file, and raised to the caller
                self._state.fail(failure, said)
            else:
                yield request

    async def _next(self, steps: Steps) -> Said | None:
        """As `LiveStream._next`."""
        state = self._state
        await self._until(lambda: self._over or self._steps is not steps or state.has_next or state.is_done)
        return None if self._over or self._steps is not steps else state.next()

    async def _take(self) -> None:
        """As `LiveStream._take`."""
        state = self._state
        try:
            async for given in self._given():
                await self._until(lambda: state.has_room)
                said = await asyncio.to_thread(state.read, given)
                if state.all_taken:
                    return
                state.say(said)
                self._changed.set()
        except Exception as failure:  # noqa: BLE001 - it is the caller's own, and raised to the caller
            state.fail(failure)
        state.all_taken = True
        self._changed.set()

    async def _given(self) -> AsyncIterator[ImageLike | Frame]:
        if isinstance(self._frames, AsyncIterable):
            async for frame in self._frames:
                yield frame
            return
        frames = iter(self._frames)
        while (frame := await asyncio.to_thread(next, frames, _END)) is not _END:
            yield frame
