"""gRPC's handlers of methods, each served as streams of bytes both ways: messages are read and written here."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from cutout_common import request_ids
from google.protobuf.message import DecodeError

from cutout_server.errors import AnswerTooLargeError, CutoutError, MalformedMessageError, TooLargeError, to_status
from cutout_server.exchange import Context
from cutout_server.message_cost import MAX_FIELDS, has_too_many_fields

CANCELLATION_S = 0.1
STATUS_DETAILS = "grpc-status-details-bin"
NOT_READABLE = "a message cannot be read: expected protobuf as the contract describes it"

NextMessage = Callable[[], Awaitable[bytes | None]]


def inner(handler: Any) -> Callable[..., Any]:
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
    """Ends a call with an error."""
    status = to_status(error, request_id)
    trailing = ((request_ids.HEADER, request_id), (STATUS_DETAILS, status.SerializeToString()))
    await context.abort(error.code, status.message, trailing_metadata=trailing)


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
