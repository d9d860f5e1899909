"""Gathering what is wrong with a request, so that a caller learns of all of it at once."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from cutout_common.status import FieldViolation
from google.protobuf.message import Message

from cutout_server.errors import InvalidRequestError

T = TypeVar("T")

# More than an answer has room for; a request may have a hundred thousand.
_MOST_NOTED = 1000


class Checker:
    """Notes violations by field; `done` raises them all."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []
        self._omitted = 0

    def refuse(self, field: str, description: str) -> None:
        """Notes one, or counts it if there are very many."""
        if len(self._violations) < _MOST_NOTED:
            self._violations.append(FieldViolation(field, description))
        else:
            self._omitted += 1

    def require(self, ok: bool, field: str, description: str) -> None:
        """Notes one unless `ok`."""
        if not ok:
            self.refuse(field, description)

    def count(self, field: str, count: int, most: int) -> None:
        """Notes a list that is empty or too long."""
        self.require(1 <= count <= most, field, f"expected 1 to {most}, got {count}")

    def choice(self, value: int, choices: Mapping[Any, T], field: str) -> T:
        """The domain's word for an enum's value; the first stands in for one that is noted."""
        self.require(value in choices, field, f"expected a value of the enum, got {value}")
        return choices.get(value, next(iter(choices.values())))

    def optional(self, message: Message, field: str, low: float, high: float, path: str = "") -> float | None:
        """A number with presence, in [low, high]; None when it is absent."""
        if not message.HasField(field):
            return None
        value: float = getattr(message, field)
        # Written so that NaN is refused.
        self.require(low <= value <= high, f"{path}{field}", f"expected a number in [{low:g}, {high:g}], got {value:g}")
        return value

    def finite(self, values: Mapping[str, float], path: str) -> bool:
        """Notes every number that is NaN or infinite; whether there was none."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        for name in bad:
            self.refuse(f"{path}.{name}", f"expected a finite number, got {values[name]}")
        return not bad

    @contextmanager
    def including(self, path: str | None = None) -> Iterator[None]:
        """Notes what a part of the request is refused with inside the block; see `within` for the path."""
        try:
            with within(path):
                yield
        except InvalidRequestError as error:
            for violation in error.violations:
                self.refuse(violation.field, violation.description)
            self._omitted += error.omitted_violations

    def done(self) -> None:
        """Raises what was noted.

        Raises:
            InvalidRequestError: Something was.
        """
        if self._violations:
            raise InvalidRequestError(*self._violations, omitted=self._omitted)


@contextmanager
def within(path: str | None) -> Iterator[None]:
    """Prefixes the fields of violations raised inside the block: their request is a field of another."""
    with _named(lambda field: field if path is None else f"{path}.{field}"):
        yield


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Gives the fields of violations raised inside the block the names that the caller knows.

    Args:
        names: By the path that stands for them inside; what is below such a path stays below.
    """

    def name(field: str) -> str:
        for inside, outside in names.items():
            if field == inside or field.startswith((f"{inside}.", f"{inside}[")):
                return outside + field.removeprefix(inside)
        return field

    with _named(name):
        yield


@contextmanager
def _named(name: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except InvalidRequestError as error:
        raise error.renamed(name) from None
