"""One picture, many prompts."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self, Unpack

import grpc
from cutout.v1 import segmentation_service_pb2
from cutout_common import routing

from cutout_client import errors, requests, tasks
from cutout_client.answer import ImageInfo
from cutout_client.diagnosis import translated, translated_async
from cutout_client.images import Picture, RemotePicture
from cutout_client.keywords import lists_arguments
from cutout_client.limits import ended, late, limited
from cutout_client.link import AsyncLink, Link
from cutout_client.prompts import Boxes, EverythingOptions, Options, Prompts, Regions, TextOptions
from cutout_client.responses import read_image_info, read_segmentation
from cutout_client.results import Segmentation
from cutout_client.retrying import interrupted, retried, retried_async
from cutout_client.transport import Call, Stubs

Request = segmentation_service_pb2.SegmentSessionRequest
Response = segmentation_service_pb2.SegmentSessionResponse

_CLOSE_S = 5.0  # A server that does not end a session that we ended is not waited for longer.


def read_answer(message: Response, picture: Picture, request_id: str) -> Segmentation:
    """The answer to one prompt.

    Raises:
        CutoutError: The prompt was refused.
    """
    if message.WhichOneof("message") == "error":
        raise errors.from_status(message.error, request_id)
    return read_segmentation(message.segmentation, picture, request_id)


def _local(picture: Picture, gone: errors.NotFoundError) -> Picture:
    """What to open a session with in place of a stored picture whose server is gone.

    Raises:
        NotFoundError: It is not here, or something else was not found.
    """
    if gone.reason != routing.ELSEWHERE or not isinstance(picture, RemotePicture) or picture.local is None:
        raise gone
    return picture.local


@lists_arguments
class Session:
    """A picture whose embedding stays warm: each prompt costs the decoder alone.

    Use it in a `with` block. Threads may share it: prompts are answered one after the other, each by its turn, and
    `timeout_s` counts from there. A refused prompt raises and leaves the session open; one that is not answered in time
    ends it. When its server is lost or drains the session goes on at another one: the picture is sent there with the
    prompt that is not answered yet, for a prompt needs nothing of those before it.

    Attributes:
        image: The picture as the server saw it.
        segmenter: The model that serves the session.
    """

    image: ImageInfo
    segmenter: str

    def __init__(self, link: Link, picture: Picture, segmenter: str, call: Call) -> None:
        self._link = link
        self._picture = picture
        self._segmenter = segmenter
        self._call = call
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        opened = self._open(self._call.next(self._call.limit_s))
        self.image = read_image_info(opened.image)
        self.segmenter = opened.segmenter
        return self

    def __exit__(self, *_: object) -> None:
        if not self._turn.acquire(timeout=_CLOSE_S):  # another thread still waits for its answer
            self._rpc.cancel()
            self._turn.acquire()
        self._prompts.put(None)
        with limited(self._rpc.cancel, _CLOSE_S), suppress(grpc.RpcError):
            for _answer in self._rpc:
                pass
        self._turn.release()

    def text(
        self,
        phrases: str | Sequence[str],
        *,
        detector: str = "",
        timeout_s: float | None = None,
        **options: Unpack[TextOptions],
    ) -> Segmentation:
        """As `Client.segment_text`, on the session's picture."""
        task = tasks.text_task(phrases, detector=detector, segmenter="", options=options)
        return self._ask(task, timeout_s)

    def box(self, boxes: Boxes, *, timeout_s: float | None = None, **options: Unpack[Options]) -> Segmentation:
        """As `Client.segment_box`, on the session's picture."""
        return self._ask(tasks.box_task(boxes, "", options), timeout_s)

    def points(self, prompts: Prompts, *, timeout_s: float | None = None, **options: Unpack[Options]) -> Segmentation:
        """As `Client.segment_points`, on the session's picture."""
        return self._ask(tasks.points_task(prompts, "", options), timeout_s)

    def everything(
        self,
        *,
        timeout_s: float | None = None,
        **options: Unpack[EverythingOptions],
    ) -> Segmentation:
        """As `Client.segment_everything`, on the session's picture."""
        task = tasks.everything_task(segmenter="", options=options)
        return self._ask(task, timeout_s)

    def analyze(
        self,
        concepts: str | Sequence[str],
        *,
        regions: Regions | None = None,
        template: str = "",
        classifier: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Segmentation:
        """As `Client.analyze`, on the session's picture."""
        task = tasks.analyze_task(
            concepts, regions=regions, template=template, classifier=classifier, segmenter="", options=options
        )
        return self._ask(task, timeout_s)

    def _ask(self, task: tasks.Task, timeout_s: float | None) -> Segmentation:
        request = requests.session_request(task)
        with self._turn:
            call = self._call.next(self._call.limit_s if timeout_s is None else timeout_s)
            with translated(call):
                message = self._answer(request, call)
        return read_answer(message, self._picture, call.request_id)

    def _answer(self, request: Request, call: Call) -> Response:
        """The answer to a prompt, at another server when this one is lost with it or drains."""
        while True:
            try:
                return self._say(request, call)
            except grpc.RpcError as failure:
                pause_s = interrupted(call, self._link, failure)
            time.sleep(pause_s)
            self._open(call)

    def _say(self, request: Request, call: Call) -> Response:
        number = self._send(request)
        message = self._next(call)
        while message.prompt_number < number:  # the answer to one whose waiting Ctrl-C has ended
            message = self._next(call)
        return message

    def _send(self, request: Request) -> int:
        self._prompts.put(request)
        self._sent += 1
        return self._sent - 1

    def _open(self, call: Call) -> segmentation_service_pb2.SessionOpened:
        try:
            opened = self._open_with(self._picture, call)
        except errors.NotFoundError as gone:
            opened = self._open_with(_local(self._picture, gone), call)
        self._call.member = call.member
        return opened

    def _open_with(self, picture: Picture, call: Call) -> segmentation_service_pb2.SessionOpened:
        call.place, opening = requests.session_opening(picture, self._segmenter)

        def attempt(stubs: Stubs) -> Response:
            self._prompts: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
            self._sent = 0
            sent = _sent(opening(), self._prompts)
            self._rpc = stubs.segmentation.SegmentSession(sent, metadata=call.metadata)
            return self._next(call)

        return retried(call, self._link, attempt).opened

    def _next(self, call: Call) -> Response:
        with limited(self._rpc.cancel, call.remaining_s()) as is_late:
            try:
                message: Response | None = next(self._rpc, None)
            except grpc.RpcError:
                self._prompts.put(None)  # ends the thread that sends
                if is_late():
                    raise late(call) from None
                raise
        if message is None:
            self._prompts.put(None)
            raise ended(call.request_id)
        return message


def _sent(opening: Iterator[Request], prompts: "queue.SimpleQueue[Request | None]") -> Iterator[Request]:
    yield from opening
    while (request := prompts.get()) is not None:
        yield request


@lists_arguments
class AsyncSession:
    """As `Session`, for asyncio: use it in an `async with` block. Tasks may share it.

    Attributes:
        image: The picture as the server saw it.
        segmenter: The model that serves the session.
    """

    image: ImageInfo
    segmenter: str

    def __init__(self, link: Callable[[], AsyncLink], picture: Picture, segmenter: str, call: Call) -> None:
        self._link = link
        self._picture = picture
        self._segmenter = segmenter
        self._call = call
        self._turn = asyncio.Lock()
        self._over = False

    async def __aenter__(self) -> Self:
        opened = await self._open(self._call.next(self._call.limit_s))
        self.image = read_image_info(opened.image)
        self.segmenter = opened.segmenter
        return self

    async def __aexit__(self, failure: object, *_: object) -> None:
        if not failure and not self._over:
            with suppress(grpc.RpcError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S), self._turn:
                    self._prompts.put_nowait(None)
                    while await self._rpc.read() is not grpc.aio.EOF:
                        pass
        self._over = True
        self._rpc.cancel()

    async def text(
        self,
        phrases: str | Sequence[str],
        *,
        detector: str = "",
        timeout_s: float | None = None,
        **options: Unpack[TextOptions],
    ) -> Segmentation:
        """As `AsyncClient.segment_text`, on the session's picture."""
        task = tasks.text_task(phrases, detector=detector, segmenter="", options=options)
        return await self._ask(task, timeout_s)

    async def box(self, boxes: Boxes, *, timeout_s: float | None = None, **options: Unpack[Options]) -> Segmentation:
        """As `AsyncClient.segment_box`, on the session's picture."""
        return await self._ask(tasks.box_task(boxes, "", options), timeout_s)

    async def points(
        self, prompts: Prompts, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Segmentation:
        """As `AsyncClient.segment_points`, on the session's picture."""
        return await self._ask(tasks.points_task(prompts, "", options), timeout_s)

    async def everything(
        self,
        *,
        timeout_s: float | None = None,
        **options: Unpack[EverythingOptions],
    ) -> Segmentation:
        """As `AsyncClient.segment_everything`, on the session's picture."""
        task = tasks.everything_task(segmenter="", options=options)
        return await self._ask(task, timeout_s)

    async def analyze(
        self,
        concepts: str | Sequence[str],
        *,
        regions: Regions | None = None,
        template: str = "",
        classifier: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Segmentation:
        """As `AsyncClient.analyze`, on the session's picture."""
        task = tasks.analyze_task(
            concepts, regions=regions, template=template, classifier=classifier, segmenter="", options=options
        )
        return await self._ask(task, timeout_s)

    async def _ask(self, task: tasks.Task, timeout_s: float | None) -> Segmentation:
        request = requests.session_request(task)
        async with self._turn:
            call = self._call.next(self._call.limit_s if timeout_s is None else timeout_s)
            async with translated_async(call):
                message = await self._answer(request, call)
        return read_answer(message, self._picture, call.request_id)

    async def _answer(self, request: Request, call: Call) -> Response:
        """As `Session._answer`."""
        while True:
            if self._over:
                raise ended(call.request_id, "the session is over: it was left, or a prompt was cancelled or late")
            try:
                self._prompts.put_nowait(request)
                return await self._next(call)
            except grpc.RpcError as failure:
                pause_s = interrupted(call, self._link(), failure)
            await asyncio.sleep(pause_s)
            await self._open(call)

    async def _open(self, call: Call) -> segmentation_service_pb2.SessionOpened:
        try:
            opened = await self._open_with(self._picture, call)
        except errors.NotFoundError as gone:
            opened = await self._open_with(_local(self._picture, gone), call)
        self._call.member = call.member
        return opened

    async def _open_with(self, picture: Picture, call: Call) -> segmentation_service_pb2.SessionOpened:
        call.place, opening = await asyncio.to_thread(requests.session_opening, picture, self._segmenter)

        async def attempt(stubs: Stubs) -> Response:
            self._prompts: asyncio.Queue[Request | None] = asyncio.Queue()
            sent = _sent_async(opening(), self._prompts)
            self._rpc = stubs.segmentation.SegmentSession(sent, metadata=call.metadata)
            return await self._next(call)

        return (await retried_async(call, self._link(), attempt)).opened

    async def _next(self, call: Call) -> Response:
        try:
            async with asyncio.timeout(call.remaining_s()):
                message: Response | Any = await self._rpc.read()
        except asyncio.CancelledError:
            self._over = True
            raise
        except TimeoutError:
            # The call is cancelled with its read; asked again, grpc would say that our own task was.
            self._over = True
            raise await asyncio.to_thread(late, call) from None
        if message is grpc.aio.EOF:
            raise ended(call.request_id)
        return message


async def _sent_async(opening: Iterator[Request], prompts: "asyncio.Queue[Request | None]") -> AsyncIterator[Request]:
    for message in opening:
        yield message
    while (request := await prompts.get()) is not None:
        yield request
