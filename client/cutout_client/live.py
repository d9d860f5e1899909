"""Frames in, the objects in them out, as they come."""

import asyncio
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import grpc
from cutout.v1 import tracking_service_pb2

from cutout_client import errors
from cutout_client.diagnosis import translated, translated_async
from cutout_client.images import ImageLike, Picture, read_picture
from cutout_client.link import AsyncLink, Link
from cutout_client.retrying import anywhere, anywhere_async
from cutout_client.tracked import (
    Frame,
    TrackedFrame,
    TrackPrompt,
    correction_request,
    frame_request,
    read_frame,
    removal_request,
)
from cutout_client.transport import Call, Stubs

Request = tracking_service_pb2.TrackObjectsRequest
Response = tracking_service_pb2.TrackObjectsResponse

_AHEAD = 4  # Frames that are sent before the first of them is answered.
_AHEAD_OF_NEWEST = 64  # Likewise where the server drops what comes too fast.


class _Sending:
    """What both twins know of the frames that were sent."""

    def __init__(self, opening: Request, first: Mapping[int, TrackPrompt], call: Call) -> None:
        self.tracker = ""
        self._opening = opening
        self._first = dict(first)
        self._held_frames = opening.open.held_frames or 4
        newest = opening.open.drop_policy == tracking_service_pb2.TrackingOpen.DROP_POLICY_NEWEST
        self._ahead = _AHEAD_OF_NEWEST if newest else _AHEAD
        self._call = call
        self._rpc: Any = None
        self._failure: BaseException | None = None  # Of the caller's own frames.
        self._said: deque[Request] = deque()  # What goes before the next frame.
        self._sent: OrderedDict[int, Picture] = OrderedDict()  # Not answered yet.
        self._held: OrderedDict[int, Picture] = OrderedDict()
        self._next = 0
        self._unanswered = 0  # Messages whose answers the caller has not left behind.
        self._left_behind = 0
        self._all_said = False

    def correct(self, index: int, prompts: Mapping[int, TrackPrompt]) -> None:
        """Says more of objects in a frame that was answered; the answer is one of those to come.

        Args:
            index: Of the frame, one of the last `held_frames`.
            prompts: By object.

        Raises:
            ValueError: The frames have ended, and the caller has gone on behind the last answer.
        """
        self._say(correction_request(index, prompts))

    def remove(self, object_ids: Sequence[int]) -> None:
        """Follows objects no more, from the next frame on; raises as `correct` does."""
        self._say(removal_request(object_ids))

    def _say(self, message: Request) -> None:
        if self._all_said:
            raise ValueError("the frames have ended, and all of them were answered")
        self._said.append(message)
        self._changed_now()

    def _changed_now(self) -> None:
        """Wakes who sends."""

    def _go_on(self) -> None:
        """The caller asks for what comes behind the answer that it has: what it wanted to say of that it has said."""
        self._unanswered -= self._left_behind
        self._left_behind = 0
        self._changed_now()

    def _message(self, given: ImageLike | Frame) -> Request:
        frame = given if isinstance(given, Frame) else Frame(given)
        if self._first:
            frame = Frame(frame.image, {**self._first, **frame.prompts}, frame.timestamp_s, frame.index)
            self._first = {}
        index = self._next if frame.index is None else frame.index
        self._next = index + 1
        self._sent[index] = picture = read_picture(frame.image)
        return frame_request(frame, picture, index)

    def _read(self, message: Response) -> TrackedFrame | None:
        """The answer, if it is a frame's.

        Raises:
            CutoutError: It is a refusal.
        """
        kind = message.WhichOneof("message")
        if kind == "error":
            self._sent.pop(message.frame_index, None)
            self._left_behind = 1
            raise errors.from_status(message.error, self._call.request_id)
        if kind != "frame":
            self._left_behind = 1
            return None
        answer = message.frame
        for dropped in answer.dropped_frames:
            self._sent.pop(dropped, None)
        self._left_behind = len(answer.dropped_frames) + 1
        if not answer.corrected:
            self._held[answer.frame_index] = self._sent.pop(answer.frame_index)
            while len(self._held) > self._held_frames:
                self._held.popitem(last=False)
        return read_frame(answer, self._held[answer.frame_index])


class LiveStream(_Sending):
    """An iterator of frames with their objects, in the order in which the frames went.

    A frame or a correction that was refused raises where its answer would be; `next` goes on behind it. Frames are
    taken from the caller's iterator in a thread of gRPC's, a few ahead of the answers. Close it, or use it in a `with`
    block, when not all is wanted.

    Attributes:
        tracker: The model that serves the session, once it is open.
    """

    def __init__(
        self,
        link: Link,
        frames: Iterable[ImageLike | Frame],
        opening: Request,
        first: Mapping[int, TrackPrompt],
        call: Call,
    ) -> None:
        super().__init__(opening, first, call)
        self._frames = frames
        self._changed = threading.Condition(threading.RLock())
        self._link = link
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrackedFrame:
        if self._rpc is None:
            self.tracker = self._open().opened.tracker
        while True:
            self._go_on()
            if (frame := self._read(self._receive())) is not None:
                return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session; frames that are under way are not answered."""
        self._over = True
        self._changed_now()
        if self._rpc is not None:
            self._rpc.cancel()

    def _go_on(self) -> None:
        with self._changed:
            super()._go_on()

    def _changed_now(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _open(self) -> Response:
        def attempt(stubs: Stubs) -> Response:
            # No frame is taken from the caller before a server has the session.
            begins: queue.SimpleQueue[bool] = queue.SimpleQueue()
            self._rpc = stubs.tracking.TrackObjects(self._requests(begins), metadata=self._call.metadata)
            answer: Response | None = None
            try:
                answer = next(self._rpc, Response())
            finally:
                begins.put(answer is not None)
            return answer

        with translated(self._call):
            return anywhere(self._call, self._link, attempt)

    def _receive(self) -> Response:
        try:
            with translated(self._call):
                message: Response | None = next(self._rpc, None)
        except errors.CutoutError:
            self._over = True
            self._changed_now()
            raise
        if message is None:
            self._over = True
            if self._failure is not None:
                raise self._failure
            raise StopIteration
        return message

    def _requests(self, begins: "queue.SimpleQueue[bool]") -> Iterator[Request]:
        yield self._opening
        if not begins.get():
            return
        try:
            for given in self._frames:
                with self._changed:
                    self._changed.wait_for(lambda: self._over or self._unanswered < self._ahead)
                if self._over:
                    return
                message = self._message(given)
                yield from self._taken()
                with self._changed:
                    self._unanswered += 1
                yield message
        except Exception as failure:  # noqa: BLE001 - it is the caller's own, and raised to the caller
            self._failure = failure
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._said or not self._unanswered)
                if self._over or not self._said:
                    self._all_said = True
                    return
            yield from self._taken()

    def _taken(self) -> Iterator[Request]:
        while self._said:
            with self._changed:
                self._unanswered += 1
            yield self._said.popleft()


class AsyncLiveStream(_Sending):
    """As `LiveStream`, for asyncio: `async for frame in client.live(...)`. Frames may come from an async iterator.

    Attributes:
        tracker: The model that serves the session, once it is open.
    """

    def __init__(
        self,
        link: Callable[[], AsyncLink],
        frames: Iterable[ImageLike | Frame] | AsyncIterable[ImageLike | Frame],
        opening: Request,
        first: Mapping[int, TrackPrompt],
        call: Call,
    ) -> None:
        super().__init__(opening, first, call)
        self._frames = frames
        self._changed = asyncio.Event()
        self._link = link

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TrackedFrame:
        if self._rpc is None:
            self.tracker = (await self._open()).opened.tracker
        while True:
            self._go_on()
            if (frame := self._read(await self._receive())) is not None:
                return frame

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session; frames that are under way are not answered."""
        if self._rpc is not None:
            self._rpc.cancel()

    def _changed_now(self) -> None:
        self._changed.set()

    async def _until(self, ready: Callable[[], Any]) -> None:
        while not ready():
            self._changed.clear()
            await self._changed.wait()

    async def _open(self) -> Response:
        async def attempt(stubs: Stubs) -> Response:
            begins: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._rpc = stubs.tracking.TrackObjects(self._requests(begins), metadata=self._call.metadata)
            answer: Response | Any = None
            try:
                answer = await self._rpc.read()
            finally:
                begins.set_result(answer is not None)
            return Response() if answer is grpc.aio.EOF else answer

        async with translated_async(self._call):
            return await anywhere_async(self._call, self._link(), attempt)

    async def _receive(self) -> Response:
        async with translated_async(self._call):
            message: Response | Any = await self._rpc.read()
        if message is grpc.aio.EOF:
            if self._failure is not None:
                raise self._failure
            raise StopAsyncIteration
        return message

    async def _requests(self, begins: "asyncio.Future[bool]") -> AsyncIterator[Request]:
        yield self._opening
        if not await begins:
            return
        with suppress(_Ended):
            async for given in self._given():
                await self._until(lambda: self._unanswered < self._ahead)
                message = await asyncio.to_thread(self._message, given)
                while self._said:
                    self._unanswered += 1
                    yield self._said.popleft()
                self._unanswered += 1
                yield message
        while True:
            await self._until(lambda: self._said or not self._unanswered)
            if not self._said:
                self._all_said = True
                return
            self._unanswered += 1
            yield self._said.popleft()

    async def _given(self) -> AsyncIterator[ImageLike | Frame]:
        try:
            if isinstance(self._frames, AsyncIterable):
                async for frame in self._frames:
                    yield frame
                return
            frames = iter(self._frames)
            while (frame := await asyncio.to_thread(next, frames, _END)) is not _END:
                yield frame
        except Exception as failure:
            self._failure = failure
            raise _Ended from failure


class _Ended(Exception):  # noqa: N818 - never leaves this file
    pass


_END: Any = object()
