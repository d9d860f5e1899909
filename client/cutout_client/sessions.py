"""One picture, many prompts."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, Unpack

import grpc
from cutout.v1 import segmentation_service_pb2
from cutout_common.status import ErrorDetails

from cutout_client import errors, requests, tasks
from cutout_client.diagnosis import explain, translated_async, unanswered
from cutout_client.images import Picture
from cutout_client.keywords import lists_arguments
from cutout_client.prompts import Boxes, EverythingOptions, Options, Prompts, Regions, TextOptions
from cutout_client.responses import read_image_info, read_segmentation
from cutout_client.results import ImageInfo, Segmentation
from cutout_client.transport import Call

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


def _late(call: Call) -> errors.DeadlineError:
    text = unanswered(call.connection) or "no answer in time; the session is over"
    return errors.DeadlineError(grpc.StatusCode.DEADLINE_EXCEEDED, text, ErrorDetails(request_id=call.request_id))


def _ended(request_id: str, why: str = "the server has ended the session") -> errors.CallCancelledError:
    return errors.CallCancelledError(grpc.StatusCode.CANCELLED, why, ErrorDetails(request_id=request_id))


@lists_arguments
class Session:
    """A picture whose embedding stays warm: each prompt costs the decoder alone.

    Use it in a `with` block. Threads may share it: prompts are answered one after the other, each by its turn, and
    `timeout_s` counts from there. A refused prompt raises and leaves the session open; one that is not answered in time
    ends it.

    Attributes:
        image: The picture as the server saw it.
        segmenter: The model that serves the session.
    """

    image: ImageInfo
    segmenter: str

    def __init__(self, start: Callable[..., Any], picture: Picture, segmenter: str, call: Call) -> None:
        self._start = start
        self._picture = picture
        self._segmenter = segmenter
        self._call = call
        self._prompts: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._sent = 0
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        self._call.place, opening = requests.session_opening(self._picture, self._segmenter)
        self._rpc = self._start(self._requests(opening), metadata=self._call.metadata)
        opened = self._receive(self._call.limit_s).opened
        self.image = read_image_info(opened.image)
        self.segmenter = opened.segmenter
        return self

    def __exit__(self, *_: object) -> None:
        if not self._turn.acquire(timeout=_CLOSE_S):  # another thread still waits for its answer
            self._rpc.cancel()
            self._turn.acquire()
        self._prompts.put(None)
        with self._limited(_CLOSE_S), suppress(grpc.RpcError):
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
        limit_s = self._call.limit_s if timeout_s is None else timeout_s
        with self._turn:
            number = self._send(task)
            message = self._receive(limit_s)
            while message.prompt_number < number:  # the answer to one whose waiting Ctrl-C has ended
                message = self._receive(limit_s)
        return read_answer(message, self._picture, self._call.request_id)

    def _send(self, task: tasks.Task) -> int:
        self._prompts.put(requests.session_request(task))
        self._sent += 1
        return self._sent - 1

    def _requests(self, opening: Iterator[Request]) -> Iterator[Request]:
        yield from opening
        while (request := self._prompts.get()) is not None:
            yield request

    def _receive(self, limit_s: float | None) -> Response:
        with self._limited(limit_s) as is_late:
            try:
                message: Response | None = next(self._rpc, None)
            except grpc.RpcError as failure:
                self._prompts.put(None)  # ends the thread that sends
                raise (_late(self._call) if is_late() else explain(failure, self._call)) from None
        if message is None:
            self._prompts.put(None)
            raise _ended(self._call.request_id)
        return message

    @contextmanager
    def _limited(self, limit_s: float | None) -> Iterator[Callable[[], bool]]:
        """Cancels the call when time is up: gRPC's own deadline would count from the session's beginning."""
        up = threading.Event()
        if limit_s is None:
            yield up.is_set
            return

        def expire() -> None:
            up.set()
            self._rpc.cancel()

        timer = threading.Timer(limit_s, expire)
        timer.daemon = True
        timer.start()
        try:
            yield up.is_set
        finally:
            timer.cancel()


@lists_arguments
class AsyncSession:
    """As `Session`, for asyncio: use it in an `async with` block. Tasks may share it.

    Attributes:
        image: The picture as the server saw it.
        segmenter: The model that serves the session.
    """

    image: ImageInfo
    segmenter: str

    def __init__(self, start: Callable[..., Any], picture: Picture, segmenter: str, call: Call) -> None:
        self._start = start
        self._picture = picture
        self._segmenter = segmenter
        self._call = call
        self._prompts: asyncio.Queue[Request | None] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._over = False

    async def __aenter__(self) -> Self:
        self._call.place, opening = await asyncio.to_thread(requests.session_opening, self._picture, self._segmenter)
        self._rpc = self._start(self._requests(opening), metadata=self._call.metadata)
        opened = (await self._receive(self._call.limit_s)).opened
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
        async with self._turn:
            self._prompts.put_nowait(requests.session_request(task))
            message = await self._receive(self._call.limit_s if timeout_s is None else timeout_s)
        return read_answer(message, self._picture, self._call.request_id)

    async def _requests(self, opening: Iterator[Request]) -> AsyncIterator[Request]:
        for message in opening:
            yield message
        while (request := await self._prompts.get()) is not None:
            yield request

    async def _receive(self, limit_s: float | None) -> Response:
        if self._over:
            raise _ended(self._call.request_id, "the session is over: it was left, or a prompt was cancelled or late")
        try:
            async with asyncio.timeout(limit_s):
                async with translated_async(self._call):
                    message: Response | Any = await self._rpc.read()
        except asyncio.CancelledError:
            self._over = True
            raise
        except TimeoutError:
            # The call is cancelled with its read; asked again, grpc would say that our own task was.
            self._over = True
            raise await asyncio.to_thread(_late, self._call) from None
        if message is grpc.aio.EOF:
            raise _ended(self._call.request_id)
        return message
