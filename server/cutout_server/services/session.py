"""SegmentSession: one picture, many prompts."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from cutout.v1 import segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2

from cutout_server import call_context
from cutout_server.convert import responses
from cutout_server.convert.checks import Checker, renamed, within
from cutout_server.convert.inputs import read_image
from cutout_server.convert.requests import RequestReader
from cutout_server.errors import CutoutError, DeadlineError, InvalidRequestError, to_status
from cutout_server.images.uploads import Uploads
from cutout_server.pipelines.context import EmbeddedImage
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.services import answers
from cutout_server.services.answers import Room
from cutout_server.services.listening import Use, attempted, incoming
from cutout_server.types import StoredImage

Requests = AsyncIterator[pb2.SegmentSessionRequest]

_CHUNK = "image_chunk.data"


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
        use = Use()
        arriving = incoming(requests, use, self._draining, idle_s=self._idle_s, what="prompt")
        async with aclosing(arriving) as messages, self._open(messages, use) as embedded:
            image = responses.image_info(embedded.image, await self._segmentation.sha256(embedded.image))
            opened = pb2.SessionOpened(image=image, segmenter=embedded.segmenter.name)
            yield pb2.SegmentSessionResponse(opened=opened)
            use.again()
            number = 0
            async for message in messages:
                yield await self._answer(message, embedded, number, use)
                number += 1

    @asynccontextmanager
    async def _open(self, messages: Requests, use: Use) -> AsyncIterator[EmbeddedImage]:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._open_s):
                    embedded = await stack.enter_async_context(self._opened(messages, use))
            except TimeoutError:
                raise DeadlineError(f"the session was not open within {self._open_s:g} s") from None
            yield embedded

    @asynccontextmanager
    async def _opened(self, messages: Requests, use: Use) -> AsyncIterator[EmbeddedImage]:
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
                stored = await self._uploads.receive(_chunks(messages, use), field=_CHUNK)
                stack.callback(self._uploads.store.forget, stored.file_id)
                image = StoredImage(stored.file_id)
                names["open.image.image_id"] = _CHUNK  # The caller knows of no stored picture.
            with renamed(names), within("open"):
                embedded = await stack.enter_async_context(self._segmentation.embed(image, first.open.segmenter))
            yield embedded

    async def _answer(
        self, message: pb2.SegmentSessionRequest, embedded: EmbeddedImage, number: int, use: Use
    ) -> pb2.SegmentSessionResponse:
        async def work() -> segmentation_pb2.Segmentation:
            with within(message.WhichOneof("message")):
                request = self._reader.one_of(message, "message", in_session=True)
                return await answers.whole(self._segmentation, request, Room(self._max_message_bytes), embedded)

        answer = await attempted(work, self._prompt_deadline_s, "prompt")
        if not isinstance(answer, CutoutError):
            use.again()
            return pb2.SegmentSessionResponse(segmentation=answer, prompt_number=number)
        use.unless_blamed(answer)
        return pb2.SegmentSessionResponse(
            error=to_status(answer, call_context.current().request_id), prompt_number=number
        )


async def _chunks(messages: Requests, use: Use) -> AsyncIterator[bytes]:
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
