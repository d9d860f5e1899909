"""Messages as bytes: what comes is read with a refusal instead of an exception, what goes is measured."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from cutout_server.errors import MalformedMessageError, TooLargeError

NOT_READABLE = "a message cannot be read: expected protobuf as the contract describes it"


def parse(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    """A message of the type that a method takes.

    Raises:
        MalformedMessageError: The bytes are none.
    """
    try:
        return deserialize(data)
    except DecodeError:
        raise MalformedMessageError(NOT_READABLE) from None


def serialize(serialize_: Callable[[Any], bytes], message: Any, limit: int) -> bytes:
    """The bytes of an answer's message.

    Raises:
        TooLargeError: There are more than gRPC sends, which would leave the caller without a reason.
    """
    data = serialize_(message)
    if len(data) > limit:
        raise answer_too_large(limit)
    return data


def answer_too_large(limit: int) -> TooLargeError:
    """The refusal of an answer that does not fit into one message."""
    return TooLargeError(
        f"the answer has more than the {limit:,} bytes that one message may have: use StreamSegmentation (REST: POST "
        "/v1/segment:stream), which sends one object after the other, or StreamGeneration (POST /v1/generate:stream)",
        reason="ANSWER_TOO_LARGE",
    )
