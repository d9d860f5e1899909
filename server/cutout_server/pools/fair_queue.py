"""Whose turn it is: callers in rounds, and of one caller's requests in turn the most urgent and the longest waiting.

Devices and processes take their work in this order, and so do threads: `FairThreads`.
"""

import itertools
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from cutout_server import call_context

T = TypeVar("T")

# Of so many quanta of a caller one goes to its request that has waited longest, and the others to the most urgent.
PATIENT = 4


class _Place(NamedTuple):
    """Where somebody stands in line: behind all who stood there when it came, or when it was served last.

    Attributes:
        passes: How many had begun by then, its own included.
        was_served: Whoever came during that last one stands before whom it served.
        number: In the order of these events.
    """

    passes: int
    was_served: bool
    number: int


@dataclass(eq=False)
class Turn:
    """One request's place in the order; made by `FairQueue`.

    Attributes:
        caller: Whose it is.
        deadline_s: When it is to be done.
        place: Among its caller's.
        quantum: The kinds of passes that it had in its quantum.
    """

    caller: str
    deadline_s: float
    place: _Place
    quantum: set[Hashable] = field(default_factory=set)

    def goes_on(self, kind: Hashable) -> bool:
        """Whether a pass would belong to the quantum that it has begun."""
        return bool(self.quantum) and kind not in self.quantum


@dataclass
class _Caller:
    """Whose requests wait.

    Attributes:
        place: Among callers.
        quanta: How many were begun for its sake.
        current: The request that was begun first of those that are not over.
    """

    place: _Place
    turns: set[Turn] = field(default_factory=set)
    quanta: int = 0
    current: Turn | None = None


class FairQueue:
    """Round robin of callers (Nagle 1985), each with a quantum as in deficit round robin (Shreedhar, Varghese 1996).

    A quantum is what a short request needs: one pass of each kind, as one to encode, one to decode, one for the masks.
    A second pass of a kind begins another quantum, and waits for it as a request waits that has just come. So frames
    of many objects, grids of points, tiles and several pictures hold a device for one pass, not until they are done.

    After each pass a caller stands behind all who wait. Before all of them stands what each caller's current request
    needs to end its quantum: finishing soon is better for all than beginning many. Of one caller's requests, those that
    go on with a quantum are next; then, of those that were not served yet, the one with the earliest deadline. One
    quantum of four goes to the request that has waited longest, new or not.

    So nobody starves: while a caller waits for its next pass, each other one has a quantum and a pass at most. A
    request beside n others of its caller, however many come after it, has it within 4 (n + 1) quanta of that caller.
    """

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._numbers = itertools.count()
        self._passes = 0

    def take(self, caller: str, deadline_s: float) -> Turn:
        """A place for a request; `give_back` ends it."""
        place = self._end(was_served=False)
        turn = Turn(caller, deadline_s, place)
        self._callers.setdefault(caller, _Caller(place)).turns.add(turn)
        return turn

    def give_back(self, turn: Turn) -> None:
        """The request is over."""
        caller = self._callers[turn.caller]
        caller.turns.discard(turn)
        if caller.current is turn:
            caller.current = None
        if not caller.turns:
            del self._callers[turn.caller]

    def begin(self, turn: Turn, *joined: Turn, kind: Hashable = None) -> None:
        """A request is served one pass of a kind, and so are others by the same pass, though it is not their turn."""
        self._passes += 1
        for each in (turn, *joined):
            place = self._end(was_served=True)
            caller = self._of(each)
            if not each.goes_on(kind):
                each.quantum.clear()
                caller.quanta += each is turn
            each.quantum.add(kind)
            each.place = caller.place = place
            if caller.current is None and each in caller.turns:
                caller.current = each

    def order(self, turn: Turn, kind: Hashable = None) -> tuple[bool, _Place, bool, bool, float, _Place]:
        """What to sort by, the next one first, when each turn waits for a pass of some kind."""
        caller = self._of(turn)
        if turn.goes_on(kind):
            return (turn is not caller.current, caller.place, False, False, 0.0, turn.place)
        if caller.quanta % PATIENT == PATIENT - 1:
            return (True, caller.place, True, False, 0.0, turn.place)
        return (True, caller.place, True, turn.place.was_served, turn.deadline_s, turn.place)

    def _of(self, turn: Turn) -> _Caller:
        """Its caller; one of nobody's if the request is over while its last job is on the way."""
        return self._callers.get(turn.caller, _Caller(turn.place))

    def _end(self, *, was_served: bool) -> _Place:
        """The end of the line."""
        return _Place(self._passes, was_served, next(self._numbers))


class WorkObserver(Protocol):
    """Hears of work off the event loop; metrics hang here."""

    def queue(self, where: str, waiting: Callable[[], int]) -> None:
        """There is a line of work; `waiting` tells from any thread how long it is."""

    def worked(self, where: str, waited_s: float, seconds: float) -> None:
        """A piece of work is done, after it had waited."""


@dataclass(frozen=True)
class _Piece:
    turn: Turn
    future: Future[Any]
    work: Callable[[], Any]
    queued_s: float = field(default_factory=time.monotonic)


class FairThreads(ThreadPoolExecutor):
    """Work begins in the order of `FairQueue`, for the call that it is submitted in; not what is cancelled before.

    A piece that has begun holds its thread until it is done: whatever may take long has to come in several pieces, or
    to go elsewhere.

    Args:
        threads: How many.
        where: What they are called in their names and for the observer.
        observer: Hears of every piece.
    """

    def __init__(self, threads: int, where: str, observer: WorkObserver) -> None:
        super().__init__(threads, thread_name_prefix=where)
        self._where = where
        self._observer = observer
        self._order_lock = threading.Lock()
        self._turns = FairQueue()
        self._waiting: list[_Piece] = []
        observer.queue(where, lambda: len(self._waiting))

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Puts work into the line of the current call's caller.

        Raises:
            RuntimeError: The threads were shut down.
        """
        future: Future[T] = Future()
        with self._order_lock:
            turn = self._turns.take(call_context.party(), call_context.deadline_s())
            self._waiting.append(_Piece(turn, future, partial(work, *args, **kwargs)))
        super().submit(self._do_next)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more work; see ThreadPoolExecutor."""
        if cancel_futures:
            with self._order_lock:
                for piece in self._waiting:
                    piece.future.cancel()
        super().shutdown(wait)

    def _do_next(self) -> None:
        """Does one piece: as many are waiting as there are calls of this."""
        with self._order_lock:
            piece = min(self._waiting, key=lambda piece: self._turns.order(piece.turn))
            self._waiting.remove(piece)
            is_wanted = piece.future.set_running_or_notify_cancel()
            if is_wanted:
                self._turns.begin(piece.turn)
        if is_wanted:
            self._do(piece)
        with self._order_lock:
            self._turns.give_back(piece.turn)

    def _do(self, piece: _Piece) -> None:
        began_s = time.monotonic()
        try:
            answer = piece.work()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            piece.future.set_exception(error)
        else:
            piece.future.set_result(answer)
        self._observer.worked(self._where, began_s - piece.queued_s, time.monotonic() - began_s)
