"""SegmentSession: one picture, many prompts."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from cutout.v1 import segmentation_service_pb2 as pb2

from cutout_server import call_context
from cutout_server.convert import responses
from cutout_server.convert.checks import Checker, renamed, within
from cutout_server.convert.images import read_image
from cutout_server.convert.requests import RequestReader
from cutout_server.errors import (
    CutoutError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
    to_status,
)
from cutout_server.images.uploads import Uploads
from cutout_server.pipelines.context import EmbeddedImage
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.services import answers
from cutout_server.services.room import Room
from cutout_server.types import StoredImage

Requests = AsyncIterator[pb2.SegmentSessionRequest]

_CHUNK = "image_chunk.data"
# Refusals that are no fault of the caller's.
_NOT_THE_CALLERS = (DeadlineError, InternalError, OverloadedError, UnavailableError)


class Sessions:
    """Serves sessions until their callers leave, fall silent, or the server drains."""

    def __init__(
        self,
        segmentation: SegmentPipeline,
        reader: RequestReader,
        uploads: Uploads,
        draining: asyncio.Event,
        *,
        open_s: float,
        idle_s: float,
        prompt_deadline_s: float,
        max_message_bytes: int,
    ) -> None:
        self._segmentation = segmentation
        self._reader = reader
        self._uploads = uploads
        self._draining = draining
        self._open_s = open_s
        self._idle_s = idle_s
        self._prompt_deadline_s = prompt_deadline_s
        self._max_message_bytes = max_message_bytes

    async def serve(self, requests: Requests) -> AsyncGenerator[pb2.SegmentSessionResponse]:
        """Answers a session's messages in order.

        Raises:
            CutoutError: The session cannot begin or go on; a refused prompt is an answer instead.
        """
        use = _Use()
        async with aclosing(self._patiently(requests, use)) as messages, self._open(messages, use) as embedded:
            image = responses.image_info(embedded.image, await self._segmentation.sha256(embedded.image))
            opened = pb2.SessionOpened(image=image, segmenter=embedded.segmenter.name)
            yield pb2.SegmentSessionResponse(opened=opened)
            use.again()
            number = 0
            async for message in messages:
                yield await self._answer(message, embedded, number, use)
                number += 1

    @asynccontextmanager
    async def _open(self, messages: Requests, use: "_Use") -> AsyncIterator[EmbeddedImage]:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._open_s):
                    embedded = await stack.enter_async_context(self._opened(messages, use))
            except TimeoutError:
                raise DeadlineError(f"the session was not open within {self._open_s:g} s") from None
            yield embedded

    @asynccontextmanager
    async def _opened(self, messages: Requests, use: "_Use") -> AsyncIterator[EmbeddedImage]:
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "open":
            raise InvalidRequestError.of("open", "expected it as the first message")
        names: dict[str, str] = {}
        async with AsyncExitStack() as stack:
            if first.open.HasField("image"):
                check = Checker()
                image = read_image(check, first.open.image, "open.image")
                check.done()
            else:
                stored = await self._uploads.receive(
                    _chunks(messages, use), call_context.current().caller, field=_CHUNK
                )
                stack.callback(self._uploads.store.forget, stored.image_id)
                image = StoredImage(stored.image_id)
                names["open.image.image_id"] = _CHUNK  # The caller knows of no stored picture.
            with renamed(names), within("open"):
                embedded = await stack.enter_async_context(self._segmentation.embed(image, first.open.segmenter))
            yield embedded

    async def _answer(
        self, message: pb2.SegmentSessionRequest, embedded: EmbeddedImage, number: int, use: "_Use"
    ) -> pb2.SegmentSessionResponse:
        session = call_context.current()
        call = replace(session, stages=call_context.Stages(), deadline_s=time.monotonic() + self._prompt_deadline_s)
        call_context.begin(call)
        try:
            with within(message.WhichOneof("message")):
                async with asyncio.timeout(self._prompt_deadline_s):
                    call.account.request()
                    request = self._reader.one_of(message, "message", in_session=True)
                    answer = await answers.whole(self._segmentation, request, Room(self._max_message_bytes), embedded)
            use.again()
            return pb2.SegmentSessionResponse(segmentation=answer, prompt_number=number)
        except TimeoutError:
            error: CutoutError = DeadlineError(f"the prompt took longer than {self._prompt_deadline_s:g} s")
        except CutoutError as refused:
            error = refused
            call.stages.note(refused)
        finally:
            session.stages.extend(call.stages)
            call_context.begin(session)
        if isinstance(error, _NOT_THE_CALLERS):
            use.again()
        return pb2.SegmentSessionResponse(error=to_status(error, call.request_id), prompt_number=number)

    async def _patiently(self, requests: Requests, use: "_Use") -> AsyncGenerator[pb2.SegmentSessionRequest]:
        """The caller's messages; raises when nothing of use comes any more, or the server drains."""
        draining = asyncio.ensure_future(self._draining.wait())
        message: asyncio.Future[Any] = draining
        try:
            while True:
                message = asyncio.ensure_future(anext(requests, None))
                done, _ = await asyncio.wait(
                    {message, draining},
                    timeout=max(0.0, self._idle_s - use.idle_s),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if message not in done:
                    if draining in done:
                        raise UnavailableError("the server is shutting down", retry_after_s=1.0, reason="DRAINING")
                    raise DeadlineError(
                        f"no prompt that could be answered for {self._idle_s:g} s", reason="SESSION_IDLE"
                    )
                if (arrived := message.result()) is None:
                    return
                yield arrived
        finally:
            for waiting in (draining, message):
                waiting.cancel()
            await asyncio.gather(draining, message, return_exceptions=True)


class _Use:
    """When a session was last of use: messages that cannot be answered keep none alive."""

    def __init__(self) -> None:
        self.again()

    def again(self) -> None:
        """It was, just now."""
        self._last_s = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._last_s


async def _chunks(messages: Requests, use: _Use) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("message") != "image_chunk":
            raise InvalidRequestError.of(
                "image_chunk", f"expected the picture before any prompt, got {message.WhichOneof('message')}"
            )
        chunk = message.image_chunk
        if chunk.data:
            use.again()
        yield chunk.data
        if chunk.last:
            return
    raise InvalidRequestError.of("image_chunk.last", "expected it before the end of the stream")
