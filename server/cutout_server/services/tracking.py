"""TrackingService: sessions that follow objects."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any

import grpc
from cutout.v1 import tracking_service_pb2 as pb2
from cutout.v1 import tracking_service_pb2_grpc as pb2_grpc

from cutout_server import call_context
from cutout_server.convert.checks import within
from cutout_server.convert.live import LiveReader, one_of
from cutout_server.convert.tracking import TrackingReader, encoded_of, tracked_frame
from cutout_server.convert.videos import VideoTrackReader
from cutout_server.errors import CutoutError, InvalidRequestError, UnavailableError, to_status
from cutout_server.pipelines.track_live import LiveTracking, LiveTrackPipeline
from cutout_server.pipelines.track_video import VideoTrackPipeline
from cutout_server.services import following
from cutout_server.services.answers import Room, written
from cutout_server.services.listening import Use, attempted, incoming
from cutout_server.services.newest import Newest, Numbered
from cutout_server.types import DropPolicy, TrackedFrame

Context = grpc.aio.ServicerContext[Any, Any]
Requests = AsyncIterator[pb2.TrackObjectsRequest]


class TrackingServicer(pb2_grpc.TrackingServiceServicer):
    """Frames in, masks out. Each method is described in the contract."""

    def __init__(
        self,
        live: LiveTrackPipeline,
        stored: VideoTrackPipeline,
        reader: TrackingReader,
        draining: asyncio.Event,
        *,
        idle_s: float,
        frame_deadline_s: float,
        max_message_bytes: int,
    ) -> None:
        self._live = live
        self._stored = stored
        self._reader = reader
        self._draining = draining
        self._idle_s = idle_s
        self._frame_deadline_s = frame_deadline_s
        self._max_message_bytes = max_message_bytes

    async def TrackObjects(
        self, request_iterator: Requests, context: Context
    ) -> AsyncGenerator[pb2.TrackObjectsResponse]:
        use = Use()
        arriving = incoming(request_iterator, use, self._draining, idle_s=self._idle_s, what="frame")
        async with AsyncExitStack() as stack:
            messages = await stack.enter_async_context(aclosing(arriving))
            first = await anext(messages, None)
            if first is None or first.WhichOneof("message") != "open":
                raise InvalidRequestError.of("open", "expected it as the first message")
            with within("open"):
                reader = LiveReader(self._reader, first.open)
                request = reader.opening()
                tracking = await stack.enter_async_context(self._live.open(request))
            yield pb2.TrackObjectsResponse(opened=pb2.TrackingOpened(tracker=tracking.tracker))
            numbered: AsyncIterator[Numbered] = _numbered(messages)
            newest: Newest | None = None
            if request.tracking.drop_policy is DropPolicy.NEWEST:
                newest = await stack.enter_async_context(Newest(numbered))
                numbered = aiter(newest)
            dropped: list[int] = []
            async for number, message in numbered:
                overtaken = newest.dropped() if newest is not None else []
                tracking.dropped(len(overtaken))
                dropped += overtaken
                answer = await self._answer(tracking, reader, message, use, dropped)
                if answer.WhichOneof("message") == "frame":
                    dropped = []
                else:  # It may be the last one.
                    answer.dropped_frames.extend(dropped)
                answer.message_number = number
                yield answer
                if self._draining.is_set():
                    raise UnavailableError.draining()

    async def TrackVideo(
        self, request: pb2.TrackVideoRequest, context: Context
    ) -> AsyncGenerator[pb2.TrackVideoResponse]:
        answer = following.stream(
            self._stored.open(VideoTrackReader(self._reader).read(request)),
            self._draining,
            frame_deadline_s=self._frame_deadline_s,
            max_message_bytes=self._max_message_bytes,
        )
        async with aclosing(answer) as messages:
            async for message in messages:
                yield message

    async def _answer(
        self,
        tracking: LiveTracking,
        reader: LiveReader,
        message: pb2.TrackObjectsRequest,
        use: Use,
        dropped: list[int],
    ) -> pb2.TrackObjectsResponse:
        async def work() -> pb2.TrackObjectsResponse:
            kind = one_of(message)
            with within(kind):
                if kind == "remove":
                    left = tracking.remove(reader.removal(message.remove))
                    return pb2.TrackObjectsResponse(removed=pb2.Removed(object_ids=left))
                if kind == "correct":
                    found: TrackedFrame = await tracking.correct(reader.correction(message.correct))
                else:
                    found = await tracking.frame(reader.frame(message.frame))
                call = call_context.current()
                make = partial(tracked_frame, found, dropped, call.stages, call.request_id)
                answer = await written(make, encoded_of(found))
                return pb2.TrackObjectsResponse(frame=await Room(self._max_message_bytes).take(answer))

        answer = await attempted(work, self._frame_deadline_s, "frame")
        if not isinstance(answer, CutoutError):
            use.again()
            return answer
        use.unless_blamed(answer)
        refused = pb2.TrackObjectsResponse(error=to_status(answer, call_context.current().request_id))
        kind = message.WhichOneof("message")
        if kind in {"frame", "correct"}:
            refused.frame_index = getattr(message, kind).frame_index
        return refused


async def _numbered(messages: Requests) -> AsyncIterator[Numbered]:
    number = 0
    async for message in messages:
        yield number, message
        number += 1
