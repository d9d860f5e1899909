"""The messages of one call: within a budget of bytes for all callers, and of time for each message.

Each of gRPC's handlers is served as streams of bytes both ways; its messages are parsed and serialized here.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from cutout_common import request_ids
from cutout_common.allowance import Allowance, Held, NoRoomError
from cutout_common.heap import Trimmer
from google.protobuf.message import DecodeError

from cutout_server import call_context
from cutout_server.errors import (
    AnswerTooLargeError,
    CutoutError,
    DeadlineError,
    MalformedMessageError,
    OverloadedError,
    TooLargeError,
    to_status,
)
from cutout_server.message_cost import MAX_FIELDS, has_too_many_fields

# A caller on a poor line is no slower than this.
SLOWEST_BYTES_PER_S = 64 * 1024
# For room in the budget of bytes, before a call is turned away.
ROOM_S = 10.0
# A caller who takes in nothing for so long keeps others from what its call holds.
REST_AFTER_S = 0.5

# The cancellation of a call whose messages have ended comes after so long.
CANCELLATION_S = 0.1
STATUS_DETAILS = "grpc-status-details-bin"
NOT_READABLE = "a message cannot be read: expected protobuf as the contract describes it"

Context = grpc.aio.ServicerContext[Any, Any]
NextMessage = Callable[[], Awaitable[bytes | None]]


@dataclass(frozen=True)
class Bounds:
    """What holds for the messages of all calls together.

    gRPC takes in all of a message once it is asked for it, and nobody knows how long it is before it is there. So there
    must be room for the largest one first; what turns out to be less is given back as soon as the message is there.

    Attributes:
        received: Bytes of messages that arrive, or that were received and are not yet dropped.
        answers: Bytes of answers that are made and not yet written.
        max_message_bytes: Bound on one message, both ways.
        max_stall_s: A caller who takes in nothing of an answer for so long has left; a long message has longer. And
            whose message is not there after so long gives way when others wait for room.
    """

    received: Allowance
    answers: Allowance
    max_message_bytes: int
    max_stall_s: float
    trimmer: Trimmer = field(default_factory=Trimmer)


class Exchange:
    """Reads and writes the messages of a call.

    Attributes:
        received: Messages that came.
        sent: Messages that went.
    """

    def __init__(self, context: Context, bounds: Bounds) -> None:
        self.received = 0
        self.sent = 0
        self._context = context
        self._bounds = bounds
        self._message = Held(bounds.received, "")
        self._answer = Held(bounds.answers, "")
        self._kept = 0  # Of messages that stay when the next one comes: a session's first, and those of `keep`.
        self._ahead = 0  # Messages of `keep`.

    @contextmanager
    def of(self, caller: str) -> Iterator[None]:
        """Counts the messages to a caller's bytes; they can be read and written within the block."""
        bounds = self._bounds
        with bounds.received.hold(caller) as self._message, bounds.answers.hold(caller) as self._answer:
            yield

    async def read(self) -> bytes | None:
        """The next message; None when there is none.

        Raises:
            OverloadedError: There was no room for it in time.
            DeadlineError: It did not come in time, and others wait.
        """
        # Whoever waits for room for a further message has nothing in hand: its deadline is bound enough.
        patience_s = float("inf") if self.received else ROOM_S
        self._message.shrink(self._kept)
        await self._hold(self._message, self._kept + self._bounds.max_message_bytes, patience_s)
        reading = asyncio.ensure_future(self._context.read())
        try:
            await asyncio.wait({reading}, timeout=self._bounds.max_stall_s)
            if not reading.done():
                await self._unless_short(reading)
            data = reading.result()
        finally:
            reading.cancel()
        return self._arrived(data)

    async def await_next(self) -> bytes | None:
        """The next message of a session, which may be silent for long and keeps its first message: None at the end.

        Room is looked for when the message is there.

        Raises:
            OverloadedError: There was none in time.
        """
        if not self.received:
            first = await self.read()
            self._kept = len(first or b"")
            return first
        self._message.shrink(self._kept)
        data = await self._context.read()
        if data is not grpc.aio.EOF:
            # Whoever reads ahead waits for its own work, which ends without that, if there is no room for more.
            patience_s = float("inf") if self._ahead else ROOM_S
            await self._hold(self._message, self._kept + len(data), patience_s)
        return self._arrived(data)

    def keep(self) -> Callable[[], None]:
        """Keeps the room of the message that has just come when the next one comes, too; returns what gives it back."""
        nbytes = self._message.amount - self._kept
        self._kept += nbytes
        self._ahead += 1

        def give_back() -> None:
            self._kept -= nbytes
            self._ahead -= 1
            self._message.shrink(max(0, self._message.amount - nbytes))

        return give_back

    def drop(self) -> None:
        """Gives the room of the last message back: nobody uses it any more."""
        self._message.shrink(self._kept)

    async def hold_answer(self, nbytes: int) -> None:
        """Waits for room for so many bytes of an answer, which is taken until it is written.

        Raises:
            OverloadedError: There was none in time.
        """
        await self._hold(self._answer, nbytes)

    async def write(self, data: bytes) -> None:
        """Returns once the transport has room: a slow reader holds its own call back, and nothing piles up.

        Raises:
            DeadlineError: The caller takes in nothing.
        """
        await self.hold_answer(len(data))
        try:
            async with asyncio.timeout(self._bounds.max_stall_s + len(data) / SLOWEST_BYTES_PER_S):
                await self._written(data)
        except TimeoutError:
            raise DeadlineError(
                f"the caller took in nothing of the answer for {self._bounds.max_stall_s:g} s", reason="CALLER_STALLED"
            ) from None
        self.sent += 1
        self._answer.shrink(0)
        self._bounds.trimmer.freed(len(data))

    async def _written(self, data: bytes) -> None:
        writing = asyncio.ensure_future(self._context.write(data))
        try:
            done, _ = await asyncio.wait({writing}, timeout=REST_AFTER_S)
            while not done:
                rested = [held.rest() for held in call_context.current().resting]
                done, _ = await asyncio.wait({writing}, timeout=None if all(rested) else REST_AFTER_S)
            writing.result()
        finally:
            writing.cancel()

    async def _unless_short(self, reading: "asyncio.Future[Any]") -> None:
        short = asyncio.ensure_future(self._bounds.received.short())
        try:
            await asyncio.wait({reading, short}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            short.cancel()
        if not reading.done():
            waited = f"the message was not there after {self._bounds.max_stall_s:g} s, and others wait for its room"
            raise DeadlineError(waited, reason="CALLER_STALLED")

    def _arrived(self, data: Any) -> bytes | None:
        if data is grpc.aio.EOF:
            self._message.shrink(self._kept)
            return None
        self.received += 1
        message: bytes = data
        self._message.shrink(self._kept + len(message))
        self._bounds.trimmer.freed(len(message))
        return message

    async def _hold(self, held: Held, nbytes: int, patience_s: float = ROOM_S) -> None:
        if nbytes <= held.amount:
            return
        try:
            with call_context.stage("queue"):
                await held.grow(nbytes, patience_s)
        except NoRoomError as full:
            kind = "messages" if held is self._message else "answers"
            whose = "your" if full.of_caller else "all callers'"
            raise OverloadedError(
                f"{whose} {kind} in hand have as many bytes as they may; try again in {full.retry_after_s:.1f} s",
                reason="BYTES_IN_HAND",
                retry_after_s=full.retry_after_s,
            ) from None


def servicer_method(handler: Any) -> Callable[..., Any]:
    """The servicer's own method, unary or streaming."""
    method: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return method


async def requested(handler: Any, next_message: NextMessage) -> Any:
    """What the servicer's method takes: a message, or an iterator of messages.

    Raises:
        MalformedMessageError: No message came, or it cannot be read.
        TooLargeError: It would take too long to read.
    """
    if handler.request_streaming:
        return _all(handler, next_message)
    data = await next_message()
    if data is not None:
        return _parsed(handler, data)
    # When a caller has left, or sent more than gRPC takes, the messages end first and the cancellation comes next.
    await asyncio.sleep(CANCELLATION_S)
    raise MalformedMessageError("expected a message, got none")


def serialized(handler: Any, response: Any, limit: int) -> bytes:
    """The bytes of an answer's message.

    Raises:
        AnswerTooLargeError: There are more than gRPC sends, which would leave the caller without a reason.
    """
    data: bytes = handler.response_serializer(response)
    if len(data) > limit:
        raise AnswerTooLargeError(limit)
    return data


def bare(error: CutoutError) -> CutoutError:
    """The error without its traceback, whose frames hold the request: megabytes that would stay until the next GC."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


async def abort(context: Context, error: CutoutError, request_id: str) -> None:
    """Ends a call with an error; one whose caller has left meanwhile just ends."""
    status = to_status(error, request_id)
    trailing = ((request_ids.HEADER, request_id), (STATUS_DETAILS, status.SerializeToString()))
    try:
        await context.abort(error.code, status.message, trailing_metadata=trailing)
    except grpc.aio.InternalError:  # gRPC would log a traceback for each.
        raise asyncio.CancelledError from None


async def _all(handler: Any, next_message: NextMessage) -> AsyncIterator[Any]:
    while (data := await next_message()) is not None:
        yield _parsed(handler, data)


def _parsed(handler: Any, data: bytes) -> Any:
    deserializer = handler.request_deserializer  # A message class's own FromString.
    if has_too_many_fields(data, deserializer.__self__.DESCRIPTOR):
        raise TooLargeError(f"a message may have at most {MAX_FIELDS:,} fields, counting those of the messages in it")
    try:
        return deserializer(data)
    except DecodeError:
        raise MalformedMessageError(NOT_READABLE) from None
