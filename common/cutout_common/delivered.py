"""What of a streamed answer has been delivered, so that another server goes on behind it.

Equal servers answer alike. One that goes on for a server that was lost begins at the beginning, and of its messages as
many are held back as have been delivered. That they say the same is checked: a caller never gets parts of two different
answers. Floating point numbers alone are not compared: times differ, and of scores the last digits may.
"""

from hashlib import blake2b
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


class AnswerChangedError(Exception):
    """Another server does not begin with what the lost one said."""


class Delivered:
    """Counts and remembers, in a few bytes, what has been delivered.

    Attributes:
        count: How many messages that are.
        has_begun: Whether the server that answers now has said anything.
    """

    def __init__(self) -> None:
        self.count = 0
        self.has_begun = False
        self._said = _digest()
        self._repeated = _digest()
        self._to_repeat = 0

    def begin(self) -> None:
        """A server begins at the beginning."""
        self.has_begun, self._repeated, self._to_repeat = False, _digest(), self.count

    def is_new(self, message: Message) -> bool:
        """Whether the server's next message is to be delivered; it counts as delivered then.

        Raises:
            AnswerChangedError: What came before was another answer's.
        """
        self.has_begun = True
        if not self._to_repeat:
            _add(self._said, message)
            self.count += 1
            return True
        _add(self._repeated, message)
        self._to_repeat -= 1
        if not self._to_repeat and self._repeated.digest() != self._said.digest():
            raise AnswerChangedError
        return False

    def end(self) -> None:
        """The server has said all.

        Raises:
            AnswerChangedError: That was less than what has been delivered.
        """
        if self._to_repeat:
            raise AnswerChangedError


def _digest() -> Any:
    return blake2b(digest_size=16)


def _add(digest: Any, message: Message) -> None:
    digest.update(b"{")
    for field, value in message.ListFields():
        if field.cpp_type in _FLOATS:
            continue
        digest.update(b"%d:" % field.number)
        for each in value if field.is_repeated else (value,):
            if isinstance(each, Message):
                _add(digest, each)
            else:
                digest.update(each if isinstance(each, bytes) else f"{each!r},".encode())
    digest.update(b"}")
