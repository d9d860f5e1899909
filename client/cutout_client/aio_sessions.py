"""One picture, many prompts, for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self, Unpack

import grpc
from cutout.v1 import segmentation_service_pb2

from cutout_client import errors, requests, session_steps, tasks
from cutout_client.diagnosis import translated_async
from cutout_client.images import Picture
from cutout_client.keywords import lists_arguments
from cutout_client.limits import ended, late
from cutout_client.link import AsyncLink
from cutout_client.prompts import Boxes, EverythingOptions, Options, Prompts, Regions, TextOptions
from cutout_client.results import Segmentation
from cutout_client.retrying import interrupted, retried_async
from cutout_client.session_steps import Request, Response, SessionSteps
from cutout_client.transport import Call, Stubs


@lists_arguments
class AsyncSession(SessionSteps):
    """As `Session`, for asyncio: use it in an `async with` block. Tasks may share it.

    Attributes:
        image: The picture as the server saw it.
        segmenter: The model that serves the session.
    """

    def __init__(self, link: Callable[[], AsyncLink], picture: Picture, segmenter: str, call: Call) -> None:
        self._link = link
        super().__init__(picture, segmenter, call)
        self._turn = asyncio.Lock()
        self._over = False

    async def __aenter__(self) -> Self:
        opened = await self._open(self._prompt_call(None))
        self._began(opened)
        return self

    async def __aexit__(self, failure: object, *_: object) -> None:
        if not failure and not self._over:
            with suppress(grpc.RpcError, TimeoutError):
                async with asyncio.timeout(session_steps.CLOSE_S), self._turn:
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
            call = self._prompt_call(timeout_s)
            async with translated_async(call):
                message = await self._answer(request, call)
        return self._read(message, call)

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
            opened = await self._open_with(self._local(gone), call)
        self._call.member = call.member
        return opened

    async def _open_with(self, picture: Picture, call: Call) -> segmentation_service_pb2.SessionOpened:
        opening = await asyncio.to_thread(self._opening, picture, call)

        async def attempt(stubs: Stubs) -> Response:
            self._prompts: asyncio.Queue[Request | None] = asyncio.Queue()
            sent = _sent(opening(), self._prompts)
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


async def _sent(opening: Iterator[Request], prompts: "asyncio.Queue[Request | None]") -> AsyncIterator[Request]:
    for message in opening:
        yield message
    while (request := await prompts.get()) is not None:
        yield request
