"""The answer to a request: whole, which may come from the cache, or as a stream of messages; and the room for it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from cutout.v1 import segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from google.protobuf.message import Message

from cutout_server import call_context
from cutout_server.convert import responses
from cutout_server.errors import AnswerTooLargeError
from cutout_server.pipelines.context import EmbeddedImage
from cutout_server.pipelines.response_cache import ResponseCache
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.types import EncodedMask, SegmentedObject, SegmentRequest

M = TypeVar("M", bound=Message)

_FRAMING_BYTES = 8  # Of a message inside another: its tag and its length.
_ENVELOPE_BYTES = 1024  # Of all that is around the answer: the response's own fields, and times that are written anew.

SegmentationCache = ResponseCache[segmentation_pb2.Segmentation]


async def written(make: Callable[[], M], encoded: Iterable[EncodedMask]) -> M:
    """The message that `make` makes of masks; in a thread if that takes long, so that the event loop goes on."""
    return await asyncio.to_thread(make) if responses.takes_long(encoded) else make()


class Room:
    """The bytes that are left for an answer, so that one too large is given up before all of it is made."""

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._left = message_bytes - _ENVELOPE_BYTES

    async def take(self, part: M) -> M:
        """Counts the bytes of a part, and returns the part.

        Raises:
            AnswerTooLargeError: The message has no room for it.
            OverloadedError: Answers that nobody takes in have all the memory that answers may have.
        """
        self._left -= part.ByteSize() + _FRAMING_BYTES
        if self._left < 0:
            raise AnswerTooLargeError(self._message_bytes)
        await call_context.current().hold_answer(self._message_bytes - self._left)
        return part


def segmentation_cache(max_bytes: int, ttl_s: float) -> SegmentationCache:
    """An empty cache of answers; `max_bytes` bounds them as they are sent."""
    return ResponseCache(max_bytes, ttl_s, segmentation_pb2.Segmentation.ByteSize)


async def whole(
    segmentation: SegmentPipeline, request: SegmentRequest, room: Room, embedded: EmbeddedImage | None = None
) -> segmentation_pb2.Segmentation:
    """Everything in one message.

    Raises:
        AnswerTooLargeError: There is no room for it; no more masks are made from then on.
    """
    async with segmentation.open(request, embedded) as run, aclosing(run.objects()) as made:
        objects = [await room.take(await _object(found)) async for found in made]
        overlay = await run.overlay()
        sha256 = await segmentation.sha256(run.image)
        answer = await room.take(responses.segmentation(run.facts(), sha256, overlay, call_context.current().stages))
        answer.objects.extend(objects)
        return answer


async def whole_or_cached(
    segmentation: SegmentPipeline, request: SegmentRequest, room: Room, cache: SegmentationCache
) -> segmentation_pb2.Segmentation:
    """Everything in one message, which may have been made for an equal request."""
    if not cache.capacity_bytes or not request.is_repeatable:
        return await whole(segmentation, request, room)
    pinned, key = await segmentation.pin(request)
    asked_s = time.monotonic()
    answer, cached = await cache.get(key, lambda: whole(segmentation, pinned, room))
    if not cached:
        return answer
    call_context.spent("queue", asked_s)
    return responses.cached(answer, call_context.current().stages)


async def stream(
    segmentation: SegmentPipeline, request: SegmentRequest, chunk_bytes: int
) -> AsyncGenerator[pb2.StreamSegmentationResponse]:
    """Header, objects and their chunks, overlay, summary; nothing is made before the reader wants it."""
    async with segmentation.open(request) as run, aclosing(run.objects()) as made:
        yield responses.stream_header(run.facts(), await segmentation.sha256(run.image))
        count = 0
        async for found in made:
            count += 1
            for message in responses.stream_object(await _object(found), chunk_bytes):
                yield message
        if overlay := await run.overlay():
            for message in responses.stream_overlay(overlay, chunk_bytes):
                yield message
        yield responses.stream_summary(run.facts(), count, call_context.current().stages)


async def _object(found: SegmentedObject) -> segmentation_pb2.SegmentedObject:
    return await written(partial(responses.segmented_object, found), found.encoded)
