"""TrackVideo: what is followed through a stored video, as messages."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from cutout.v1 import tracking_service_pb2 as pb2

from cutout_server import call_context
from cutout_server.convert import videos as convert
from cutout_server.convert.tracking import encoded_of, found_objects, tracked_frame
from cutout_server.errors import DeadlineError, UnavailableError
from cutout_server.pipelines.track_video import FollowedFrame, Following
from cutout_server.services.answers import Room, written


async def stream(
    following: Following, draining: asyncio.Event, *, frame_deadline_s: float, max_message_bytes: int
) -> AsyncGenerator[pb2.TrackVideoResponse]:
    """Started, each frame with what was found in it, summary; nothing is made before the reader wants it.

    Raises:
        DeadlineError: A frame took too long.
        OverloadedError: As many videos are read, or wait to be, as may.
        QuotaError: The caller has as many of them as one may have.
        UnavailableError: The server stops.
    """
    with following.held():
        async with aclosing(_held(following, draining, frame_deadline_s, max_message_bytes)) as messages:
            async for message in messages:
                yield message


async def _held(
    following: Following, draining: asyncio.Event, frame_deadline_s: float, max_message_bytes: int
) -> AsyncGenerator[pb2.TrackVideoResponse]:
    total, request_id = following.total, call_context.current().request_id
    started = pb2.TrackVideoStarted(tracker=following.tracker, video=convert.video(following.video))
    yield pb2.TrackVideoResponse(started=started, frames_total=total)
    async with aclosing(following.frames()) as frames:
        while (followed := await _next(frames, frame_deadline_s)) is not None:
            way = convert.WAYS[followed.direction]
            make = partial(tracked_frame, followed.frame, (), followed.stages, request_id)
            frame = await Room(max_message_bytes).take(await written(make, encoded_of(followed.frame)))
            message = pb2.TrackVideoResponse(frames_done=followed.done, frames_total=total, direction=way)
            if followed.found is not None:
                message.found.CopyFrom(found_objects(followed.found, request_id))
                yield message
            message.frame.CopyFrom(frame)
            yield message
            if draining.is_set():
                raise UnavailableError.draining()
    ended = convert.summary(following.worked, following.unreadable, call_context.current().stages)
    yield pb2.TrackVideoResponse(summary=ended, frames_done=total, frames_total=total)


async def _next(frames: AsyncGenerator[FollowedFrame], seconds: float) -> FollowedFrame | None:
    try:
        async with asyncio.timeout(seconds):
            return await anext(frames, None)
    except TimeoutError:
        raise DeadlineError(f"the frame took longer than {seconds:g} s") from None
