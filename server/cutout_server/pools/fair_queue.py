"""Whose turn it is: callers in rounds, and of one caller's requests the one with the earliest deadline.

Devices and processes take their work in this order, and so do threads: `FairThreads`.
"""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from cutout_server import call_context

T = TypeVar("T")


@dataclass(eq=False)
class Turn:
    """One request's place in the order; made by `FairQueue`."""

    caller: str
    deadline_s: float
    number: int
    round: int | None = None


@dataclass
class _Caller:
    round: int
    turns: set[Turn] = field(default_factory=set)


class FairQueue:
    """Start-time fair queueing of requests, each of one unit (Goyal, Vin, Cheng 1996).

    A caller's round grows with each of its requests that begins; the caller with the lowest round is next, so that a
    hundred requests of one do not stand before the first of another. Who comes anew begins in the round of the oldest
    request that is not done, so that not even those that have begun stand before its first. A request that has begun
    keeps its place until it is done: finishing it soon is better for all than beginning many.
    """

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._numbers = itertools.count()

    def take(self, caller: str, deadline_s: float) -> Turn:
        """A place for a request; `give_back` ends it."""
        now = min((self.order(turn)[0] for waiting in self._callers.values() for turn in waiting.turns), default=0)
        turn = Turn(caller, deadline_s, next(self._numbers))
        self._callers.setdefault(caller, _Caller(now)).turns.add(turn)
        return turn

    def give_back(self, turn: Turn) -> None:
        """The request is over."""
        caller = self._callers[turn.caller]
        caller.turns.discard(turn)
        if not caller.turns:
            del self._callers[turn.caller]

    def begin(self, turn: Turn) -> None:
        """The request is served; does nothing when it was before."""
        if turn.round is None:
            caller = self._callers.get(turn.caller)
            if caller is not None:  # It may have been given back while its last job was on the way.
                turn.round = caller.round
                caller.round += 1

    def step_back(self, turn: Turn) -> None:
        """Puts a request behind all that wait now, as work of many long passes should be."""
        turn.number, turn.round, turn.deadline_s = next(self._numbers), None, float("inf")

    def order(self, turn: Turn) -> tuple[int, float, int]:
        """What to sort by, the next one first."""
        if turn.round is not None:
            return (turn.round, turn.deadline_s, turn.number)
        caller = self._callers.get(turn.caller)
        return (caller.round if caller else 0, turn.deadline_s, turn.number)


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
