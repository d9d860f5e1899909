"""Answers -> JSON, with those that take long written in processes of their own; see `processes`."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cutout_gateway.errors import writer_lost
from cutout_gateway.json_fields import map_value
from cutout_gateway.processes import Processes, ProcessLostError, binding_there, pool_there
from cutout_gateway.routes import Binding
from cutout_gateway.transcode import Payload, piece, render

# What the event loop can spare the time for, a few milliseconds: so many values, in so many bytes.
_CHEAP_VALUES = 2000
_CHEAP_BYTES = 1024 * 1024

P = ParamSpec("P")
T = TypeVar("T")


class AnswerWriter:
    """Makes the bodies of answers from messages."""

    def __init__(self, processes: Processes, pool: DescriptorPool) -> None:
        self._processes = processes
        self._pool = pool

    async def whole(self, binding: Binding, message: Message) -> Payload:
        """The body that answers; see `transcode.render`.

        Raises:
            HttpError: 503 when the process that wrote it was killed.
        """
        return await self._written(render, binding, message)

    async def piece(self, binding: Binding, message: Message) -> bytes:
        """A message of a stream; see `transcode.piece`. Raises what `whole` does."""
        return await self._written(piece, binding, message)

    async def call(self, function: Callable[[Message], T], message: Message) -> T:
        """What a function, which other processes can import, makes of an answer; it may unpack pictures meanwhile.

        Raises:
            HttpError: 503 when the process that ran it was killed.
        """
        if _is_cheap(message):
            return await asyncio.to_thread(function, message)
        return await self._elsewhere(_call_there, function, message.DESCRIPTOR.full_name, message.SerializeToString())

    async def _written(
        self, write: Callable[[Binding, Message, DescriptorPool], T], binding: Binding, message: Message
    ) -> T:
        if binding.raw_response or _is_cheap(message):
            return write(binding, message, self._pool)
        return await self._elsewhere(_write_there, write, self._processes.number(binding), message.SerializeToString())

    async def _elsewhere(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._processes.run(function, *args, **kwargs)
        except ProcessLostError:
            raise writer_lost() from None


def _is_cheap(message: Message) -> bool:
    return message.ByteSize() <= _CHEAP_BYTES and _left(message, _CHEAP_VALUES) >= 0


def _left(message: Message, values: int) -> int:
    """So many values without those of a message and of the messages in it; negative when it has more.

    It stops at the first one too many, so that a look costs little however much there is.
    """
    for field, value in message.ListFields():
        if not field.is_repeated:
            values = _left(value, values - 1) if field.message_type else values - 1
        else:
            values -= len(value)
            inner = map_value(field) or field
            for element in (value.values() if map_value(field) else value) if inner.message_type else ():
                if values < 0:
                    break
                values = _left(element, values)
        if values < 0:
            break
    return values


def _write_there(write: Callable[[Binding, Message, DescriptorPool], T], number: int, data: bytes) -> T:
    """Runs in a process."""
    binding = binding_there(number)
    return write(binding, GetMessageClass(binding.rpc.output).FromString(data), pool_there())


def _call_there(function: Callable[[Message], T], name: str, data: bytes) -> T:
    """Runs in a process."""
    return function(GetMessageClass(pool_there().FindMessageTypeByName(name)).FromString(data))
