"""Threads whose work is taken in turns: however much one caller brings, the next piece is another's."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from cutout_server import call_context
from cutout_server.pools.fair_queue import FairQueue, Turn

T = TypeVar("T")


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
