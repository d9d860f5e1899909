"""Answers to identical requests: kept for a while, within a bound of bytes, and made once for all who ask at once."""

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from cutout_server.errors import DeadlineError
from cutout_server.pools.single_flight import SingleFlight

V = TypeVar("V")


@dataclass(frozen=True)
class ResponseKey:
    """What an answer depends on. Requests of equal keys have equal answers.

    Attributes:
        caller: Whose request it is; nobody gets an answer that was made for somebody else.
        models: Names of those that may work on it.
        sha256: Digest of the request and of its picture; see `digest`.
    """

    caller: str
    models: tuple[str, ...]
    sha256: bytes


@dataclass(frozen=True)
class _Kept(Generic[V]):
    answer: V
    nbytes: int
    expires_s: float


class ResponseCache(Generic[V]):
    """The oldest answers leave first. Belongs to the event loop; nothing here blocks.

    Args:
        capacity_bytes: Bound on what is kept; 0 keeps nothing and joins nobody.
        ttl_s: An answer is kept so long after it was made, however often it is asked for.
        size: Bytes of an answer.
    """

    def __init__(self, capacity_bytes: int, ttl_s: float, size: Callable[[V], int]) -> None:
        self.capacity_bytes = capacity_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._ttl_s = ttl_s
        self._size = size
        self._entries: OrderedDict[ResponseKey, _Kept[V]] = OrderedDict()  # In the order in which they expire.
        self._flights: SingleFlight[tuple[ResponseKey, tuple[int, ...]], V] = SingleFlight()
        self._forgotten: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: ResponseKey, make: Callable[[], Awaitable[V]]) -> tuple[V, bool]:
        """The answer, and whether it was here or on its way already.

        `make` runs once for all that wait for the same key. Its errors are theirs, too, and are not kept.
        """
        while True:
            self._expire()
            if kept := self._entries.get(key):
                self.hits += 1
                return kept.answer, True
            flight = (key, self._ages(key))
            joined = flight in self._flights
            try:
                answer = await self._flights.join(flight, partial(self._make, *flight, make))
            except DeadlineError:
                if joined:
                    continue  # The deadline of whoever began it.
                raise
            self.hits += joined
            self.misses += not joined
            return answer, joined

    def forget(self, model: str) -> None:
        """Forgets every answer that a model had a part in, those under way too: they are made and not kept."""
        self._forgotten[model] += 1
        for key in [key for key in self._entries if model in key.models]:
            self.bytes -= self._entries.pop(key).nbytes

    async def _make(self, key: ResponseKey, ages: tuple[int, ...], make: Callable[[], Awaitable[V]]) -> V:
        answer = await make()
        if ages == self._ages(key):
            self._keep(key, answer)
        return answer

    def _ages(self, key: ResponseKey) -> tuple[int, ...]:
        return tuple(self._forgotten[model] for model in key.models)

    def _keep(self, key: ResponseKey, answer: V) -> None:
        nbytes = self._size(answer)
        if nbytes > self.capacity_bytes:
            return
        self._entries[key] = _Kept(answer, nbytes, time.monotonic() + self._ttl_s)
        self.bytes += nbytes
        while self.bytes > self.capacity_bytes:
            self._drop_oldest()

    def _expire(self) -> None:
        now_s = time.monotonic()
        while self._entries and next(iter(self._entries.values())).expires_s <= now_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._entries.popitem(last=False)
        self.bytes -= oldest.nbytes


def digest(*values: object) -> bytes:
    """SHA-256 of values by their content: dataclasses, tuples, arrays, enums, bytes and plain values.

    Every part carries its type and its length, so that different values never look the same.

    Raises:
        TypeError: A value is of another kind.
    """
    state = hashlib.sha256()
    _feed(state, values)
    return state.digest()


def _feed(state: "hashlib._Hash", value: Any) -> None:
    match value:
        case tuple():
            _part(state, "tuple", len(value))
            for part in value:
                _feed(state, part)
        case np.ndarray():
            _part(state, "array", (value.dtype.str, value.shape))
            state.update(np.ascontiguousarray(value).data)
        case bytes():
            _part(state, "bytes", len(value))
            state.update(value)
        case Enum() | bool() | int() | float() | str() | None:
            _part(state, type(value).__name__, value)
        case _ if is_dataclass(value):
            _part(state, type(value).__name__, len(fields(value)))
            for field in fields(value):
                _feed(state, getattr(value, field.name))
        case _:
            raise TypeError(f"cannot digest a {type(value).__name__}")


def _part(state: "hashlib._Hash", kind: str, content: object) -> None:
    text = f"{kind} {content!r}".encode()
    state.update(len(text).to_bytes(8, "little") + text)
