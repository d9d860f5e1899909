"""How both clients make their calls: each has its turn, and its picture is where its server finds it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import grpc
from cutout_common.routing import Place

from cutout_client import image_rpcs
from cutout_client.connection import Connection
from cutout_client.errors import NotFoundError
from cutout_client.images import Picture, UploadedImage
from cutout_client.link import AsyncLink, Link
from cutout_client.loops import Lines
from cutout_client.moved import Moved
from cutout_client.retrying import begun, begun_async, flow, flow_async, retried, retried_async
from cutout_client.rpcs import Rpc, Streamed, Subject
from cutout_client.streams import Parts
from cutout_client.transport import Call
from cutout_client.turns import Turns

T = TypeVar("T")
A = TypeVar("A", bound=Parts[Any])


class _Calls:
    """What both twins know of their server."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._moved = Moved()

    def call(self, timeout_s: float | None, request_id: str, *, is_endless: bool = False) -> Call:
        """A call; see `Call.of`."""
        call = Call.of(self.connection, timeout_s, request_id)
        if is_endless and timeout_s is None:
            call.limit_s = None
        return call

    def current(self, picture: Picture) -> Picture:
        """The picture under the id that it has now."""
        return self._moved.current(picture)


class Calls(_Calls):
    """Those of a `Client`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.link = Link(connection, grpc)
        self._turns = Turns(connection.max_in_flight)

    def close(self) -> None:
        """Ends all calls."""
        self.link.close()

    def ask(self, rpc: Rpc[T], timeout_s: float | None, request_id: str) -> T:
        """What is answered."""
        call = self.call(timeout_s, request_id)
        with self._turn(rpc, call):
            return self._about(rpc.subject, call, lambda: self._answer(rpc, call))

    def stream(
        self, rpc: Streamed[Any, A], timeout_s: float | None, request_id: str
    ) -> tuple[Generator[Any, None, None], A, Call]:
        """The messages of an answer, what puts them together, and the call."""
        call = self.call(timeout_s, request_id, is_endless=rpc.is_endless)
        call.place = rpc.place or call.place

        def start() -> tuple[Any, Any]:
            with self._turn(rpc, call):
                begin = partial(rpc.begin, call=call)
                return self._about(rpc.subject, call, lambda: begun(call, self.link, begin))

        return flow(call, self.link, start), rpc.parts(call.request_id), call

    def upload(self, picture: Picture, timeout_s: float | None, request_id: str) -> UploadedImage:
        """Stores a picture, whose file is read when it is the call's turn."""
        call = self.call(timeout_s, request_id)
        with self._turns.turn(call):
            return self._upload(picture, call)

    def _about(self, subject: Subject | None, call: Call, ask: Callable[[], T]) -> T:
        """What is asked about a picture; it is uploaded when it is too large, or the server is gone that stored it."""
        if subject is None:
            return ask()
        placed = subject.fill(self.current(subject.picture))
        call.place = placed if isinstance(placed, Place) else subject.name(self._upload(placed, call).image_id)
        try:
            return ask()
        except NotFoundError as gone:
            if not subject.can_come_again(gone):
                raise
        old, new = subject.message.image_id, self._upload(subject.picture, call).image_id
        self._moved.note(old, new)
        call.place = subject.name(new)
        return ask()

    def _upload(self, picture: Picture, call: Call) -> UploadedImage:
        return self._answer(image_rpcs.upload(picture), call)

    def _answer(self, rpc: Rpc[T], call: Call) -> T:
        call.place = rpc.place or call.place
        return retried(call, self.link, partial(rpc.answer, call=call))

    def _turn(self, rpc: Rpc[Any], call: Call) -> AbstractContextManager[None]:
        return self._turns.turn(call) if rpc.takes_turn else nullcontext()


class AsyncCalls(_Calls):
    """Those of an `AsyncClient`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._lines = Lines(partial(AsyncLink, connection, grpc.aio), connection.max_in_flight)

    async def close(self) -> None:
        """As `Calls.close`."""
        await self._lines.close()

    def link(self) -> AsyncLink:
        """That of the running loop."""
        return self._lines.here().link

    async def ask(self, rpc: Rpc[T], timeout_s: float | None, request_id: str) -> T:
        """As `Calls.ask`."""
        call = self.call(timeout_s, request_id)
        async with self._turn(rpc, call):
            return await self._about(rpc.subject, call, lambda: self._answer(rpc, call))

    def stream(
        self, rpc: Streamed[Any, A], timeout_s: float | None, request_id: str
    ) -> tuple[AsyncGenerator[Any, None], A, Call]:
        """As `Calls.stream`."""
        call = self.call(timeout_s, request_id, is_endless=rpc.is_endless)
        call.place = rpc.place or call.place

        async def start() -> tuple[Any, Any]:
            async with self._turn(rpc, call):
                begin = partial(rpc.begin, call=call)
                return await self._about(rpc.subject, call, lambda: begun_async(call, self.link(), begin))

        return flow_async(call, self.link, start), rpc.parts(call.request_id), call

    async def upload(self, picture: Picture, timeout_s: float | None, request_id: str) -> UploadedImage:
        """As `Calls.upload`."""
        call = self.call(timeout_s, request_id)
        async with self._lines.here().turns.turn(call):
            return await self._upload(picture, call)

    async def _about(self, subject: Subject | None, call: Call, ask: Callable[[], Awaitable[T]]) -> T:
        """As `Calls._about`."""
        if subject is None:
            return await ask()
        placed = await asyncio.to_thread(subject.fill, self.current(subject.picture))
        call.place = placed if isinstance(placed, Place) else subject.name((await self._upload(placed, call)).image_id)
        try:
            return await ask()
        except NotFoundError as gone:
            if not subject.can_come_again(gone):
                raise
        old, new = subject.message.image_id, (await self._upload(subject.picture, call)).image_id
        self._moved.note(old, new)
        call.place = subject.name(new)
        return await ask()

    async def _upload(self, picture: Picture, call: Call) -> UploadedImage:
        return await self._answer(await asyncio.to_thread(image_rpcs.upload, picture), call)

    async def _answer(self, rpc: Rpc[T], call: Call) -> T:
        call.place = rpc.place or call.place
        return await retried_async(call, self.link(), partial(rpc.answer_async, call=call))

    def _turn(self, rpc: Rpc[Any], call: Call) -> AbstractAsyncContextManager[None]:
        return self._lines.here().turns.turn(call) if rpc.takes_turn else nullcontext()
