"""The size of an answer's message, counted while the answer is made."""

from typing import TypeVar

from google.protobuf.message import Message

from cutout_server import call_context
from cutout_server.errors import AnswerTooLargeError

M = TypeVar("M", bound=Message)

_FRAMING_BYTES = 8  # Of a message inside another: its tag and its length.
_ENVELOPE_BYTES = 1024  # Of all that is around the answer: the response's own fields, and times that are written anew.


class Room:
    """The bytes that are left for an answer, so that one too large is given up before all of it is made."""

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._left = message_bytes - _ENVELOPE_BYTES

    async def take(self, part: M) -> M:
        """Counts the bytes of a part, and returns the part.

        Raises:
            AnswerTooLargeError: The message has no room for it.
            OverloadedError: Answers that nobody takes in have all the memory that answers may have.
        """
        self._left -= part.ByteSize() + _FRAMING_BYTES
        if self._left < 0:
            raise AnswerTooLargeError(self._message_bytes)
        await call_context.current().hold_answer(self._message_bytes - self._left)
        return part
