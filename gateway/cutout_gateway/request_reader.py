"""Bodies -> requests, with those that take long read in processes of their own; see `processes`."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from cutout_common.routing import Place

from cutout_gateway.errors import reader_lost
from cutout_gateway.multipart import build_from_form, is_multipart, json_sections, parts_at_most
from cutout_gateway.placing import place_of
from cutout_gateway.processes import Processes, ProcessLostError, binding_there
from cutout_gateway.protojson import values_at_most
from cutout_gateway.routes import Binding
from cutout_gateway.transcode import Payload, build

# Values that the event loop can spare the time for: a few milliseconds.
_CHEAP_VALUES = 200
_CHEAP_JSON_BYTES = 64 * 1024
_CHEAP_FORM_BYTES = 1024 * 1024
_CHEAP_RAW_BYTES = 4 * 1024 * 1024

Query = list[tuple[str, str]]
T = TypeVar("T")


class Read(NamedTuple):
    """A request: serialized, and where it should go."""

    data: bytes
    place: Place


class RequestReader:
    """Makes the requests of RPCs from HTTP requests."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    async def read(self, binding: Binding, variables: dict[str, str], query: Query, payload: Payload) -> Read:
        """The request that a body, a query and a path make.

        Raises:
            HttpError: 400 that names the field and what was expected; 503 when the process that read it was killed.
        """
        here = partial(_read, binding, variables, query)
        if not binding.takes_body or (binding.raw_body and not is_multipart(payload.content_type)):
            # Nothing in it is read, but its digest tells where it should go.
            return here(payload) if len(payload.data) <= _CHEAP_RAW_BYTES else await asyncio.to_thread(here, payload)
        elsewhere = partial(_read_numbered, self._processes.number(binding), variables, query)
        return await self._call(here, elsewhere, payload)

    async def call(self, function: Callable[[Payload], T], payload: Payload) -> T:
        """What a function, which other processes can import, makes of a body of JSON or a form.

        Raises:
            HttpError: What the function raises; 503 when the process that ran it was killed.
        """
        return await self._call(function, function, payload)

    async def _call(self, here: Callable[[Payload], T], elsewhere: Callable[[Payload], T], payload: Payload) -> T:
        if _is_cheap(payload):
            return here(payload)
        if _has_few_parts(payload):
            return await asyncio.to_thread(here, payload)
        try:
            return await self._processes.run(elsewhere, payload)
        except ProcessLostError:
            raise reader_lost() from None


def _is_cheap(payload: Payload) -> bool:
    """Whether reading takes no more than a few milliseconds."""
    bound = _CHEAP_FORM_BYTES if is_multipart(payload.content_type) else _CHEAP_JSON_BYTES
    return len(payload.data) <= bound and _values(payload) <= _CHEAP_VALUES


def _has_few_parts(payload: Payload) -> bool:
    """Whether it is a form that is long for its files alone, which are copied in one go."""
    return is_multipart(payload.content_type) and _values(payload) <= _CHEAP_VALUES


def _values(payload: Payload) -> int:
    """At most so many values are in a body, counted without reading it."""
    if not is_multipart(payload.content_type):
        return values_at_most(payload.data)
    if (parts := parts_at_most(payload.data)) > _CHEAP_VALUES:  # Each is a value at least, and takes a look.
        return parts
    return sum(values_at_most(section) for section in json_sections(payload.data))


def _read(binding: Binding, variables: dict[str, str], query: Query, payload: Payload) -> Read:
    is_form = binding.takes_body and is_multipart(payload.content_type)
    make = build_from_form if is_form else build
    message = make(binding, variables, query, payload)
    return Read(message.SerializeToString(), place_of(message))


def _read_numbered(number: int, variables: dict[str, str], query: Query, payload: Payload) -> Read:
    """Runs in a process."""
    return _read(binding_there(number), variables, query, payload)
