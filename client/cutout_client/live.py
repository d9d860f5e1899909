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

    def __init__(self, first: Mapping[int, TrackPrompt], held_frames: int, call: Call) -> None:
        self.tracker = ""
        self._first = dict(first)
        self._held_frames = held_frames or 4
        self._call = call
        self._said: deque[Request] = deque()  # What goes before the next frame.
        self._sent: OrderedDict[int, Picture] = OrderedDict()  # Not answered yet.
        self._held: OrderedDict[int, Picture] = OrderedDict()
        self._next = 0

    def correct(self, index: int, prompts: Mapping[int, TrackPrompt]) -> None:
        """Says more of objects in a frame that was answered; the answer is one of those to come.

        Args:
            index: Of the frame, one of the last `held_frames`.
            prompts: By object.
        """
        self._said.append(correction_request(index, prompts))

    def remove(self, object_ids: Sequence[int]) -> None:
        """Follows objects no more, from the next frame on."""
        self._said.append(removal_request(object_ids))

    def _message(self, given: ImageLike | Frame) -> Request:
        frame = given if isinstance(given, Frame) else Frame(given)
        if self._first:
            frame = Frame(frame.image, {**self._first, **frame.prompts}, frame.timestamp_s, frame.index)
            self._first = {}
        index = self._next if frame.index is None else frame.index
        self._next = index + 1
        self._sent[index] = picture = read_picture(frame.image)
        return frame_request(frame, picture, index)

    def _read(self, message: Response) -> tuple[TrackedFrame | None, int]:
        """The answer, if it is a frame's, and how many frames it is about."""
        kind = message.WhichOneof("message")
        if kind == "error":
            about = message.HasField("frame_index") and self._sent.pop(message.frame_index, None) is not None
            error = errors.from_status(message.error, self._call.request_id)
            raise _Refused(error, int(about))
        if kind != "frame":
            return None, 0
        answer = message.frame
        for dropped in answer.dropped_frames:
            self._sent.pop(dropped, None)
        done = len(answer.dropped_frames)
        if not answer.corrected:
            self._held[answer.frame_index] = self._sent.pop(answer.frame_index)
            done += 1
            while len(self._held) > self._held_frames:
                self._held.popitem(last=False)
        return read_frame(answer, self._held[answer.frame_index]), done


class _Refused(Exception):  # noqa: N818 - never leaves this file
    def __init__(self, error: errors.CutoutError, frames: int) -> None:
        super().__init__(error)
        self.error = error
        self.frames = frames


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
        super().__init__(first, opening.open.held_frames, call)
        self._frames = frames
        self._opening = opening
        newest = opening.open.drop_policy == tracking_service_pb2.TrackingOpen.DROP_POLICY_NEWEST
        self._room = threading.Semaphore(_AHEAD_OF_NEWEST if newest else _AHEAD)
        self._link = link
        self._rpc: Any = None
        self._over = False
        self._failure: BaseException | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrackedFrame:
        if self._rpc is None:
            self.tracker = self._open().opened.tracker
        while True:
            try:
                frame, done = self._read(self._receive())
            except _Refused as refused:
                self._give_room(refused.frames)
                raise refused.error from None
            self._give_room(done)
            if frame is not None:
                return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session; frames that are under way are not answered."""
        self._over = True
        self._give_room(1)
        if self._rpc is not None:
            self._rpc.cancel()

    def _give_room(self, frames: int) -> None:
        for _ in range(frames):
            self._room.release()

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
            self._give_room(1)
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
                self._room.acquire()
                if self._over:
                    return
                message = self._message(given)
                while self._said:
                    yield self._said.popleft()
                yield message
        except Exception as failure:  # noqa: BLE001 - it is the caller's own, and raised to the caller
            self._failure = failure
        while self._said:
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
        super().__init__(first, opening.open.held_frames, call)
        self._frames = frames
        self._opening = opening
        newest = opening.open.drop_policy == tracking_service_pb2.TrackingOpen.DROP_POLICY_NEWEST
        self._room = asyncio.Semaphore(_AHEAD_OF_NEWEST if newest else _AHEAD)
        self._link = link
        self._rpc: Any = None
        self._failure: BaseException | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TrackedFrame:
        if self._rpc is None:
            self.tracker = (await self._open()).opened.tracker
        while True:
            try:
                frame, done = self._read(await self._receive())
            except _Refused as refused:
                self._give_room(refused.frames)
                raise refused.error from None
            self._give_room(done)
            if frame is not None:
                return frame

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session; frames that are under way are not answered."""
        if self._rpc is not None:
            self._rpc.cancel()

    def _give_room(self, frames: int) -> None:
        for _ in range(frames):
            self._room.release()

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
                await self._room.acquire()
                message = await asyncio.to_thread(self._message, given)
                while self._said:
                    yield self._said.popleft()
                yield message
        while self._said:
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
