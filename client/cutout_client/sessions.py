"""One picture, many prompts."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Self, Unpack

import grpc
from cutout.v1 import segmentation_service_pb2

from cutout_client import errors, requests, session_steps, tasks
from cutout_client.diagnosis import translated
from cutout_client.images import Picture
from cutout_client.keywords import lists_arguments
from cutout_client.limits import ended, late, limited
from cutout_client.link import Link
from cutout_client.prompts import Boxes, EverythingOptions, Options, Prompts, Regions, TextOptions
from cutout_client.results import Segmentation
from cutout_client.retrying import interrupted, retried
from cutout_client.session_steps import Request, Response, SessionSteps
from cutout_client.transport import Call, Stubs


@lists_arguments
class Session(SessionSteps):
    """A picture whose embedding stays warm: each prompt costs the decoder alone.

    Use it in a `with` block. Threads may share it: prompts are answered one after the other, each by its turn, and
    `timeout_s` counts from there. A refused prompt raises and leaves the session open; one that is not answered in time
    ends it. When its server is lost or drains the session goes on at another one: the picture is sent there with the
    prompt that is not answered yet, for a prompt needs nothing of those before it.

    Attributes:
        image: The picture as the server saw it.
        segmenter: The model that serves the session.
    """

    def __init__(self, link: Link, picture: Picture, segmenter: str, call: Call) -> None:
        self._link = link
        super().__init__(picture, segmenter, call)
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        opened = self._open(self._prompt_call(None))
        self._began(opened)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._turn.acquire(timeout=session_steps.CLOSE_S):  # another thread still waits for its answer
            self._rpc.cancel()
            self._turn.acquire()
        self._prompts.put(None)
        with limited(self._rpc.cancel, session_steps.CLOSE_S), suppress(grpc.RpcError):
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
            call = self._prompt_call(timeout_s)
            with translated(call):
                message = self._answer(request, call)
        return self._read(message, call)

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
            opened = self._open_with(self._local(gone), call)
        self._call.member = call.member
        return opened

    def _open_with(self, picture: Picture, call: Call) -> segmentation_service_pb2.SessionOpened:
        opening = self._opening(picture, call)

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
