"""Ends a run early, but in order: what is under way is finished first."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from rich.console import Console

from cutout_client.cli import console

INTERRUPTED = 130  # 128 + SIGINT, as shells count exit statuses


class Stop:
    """Why a run begins no more pictures. In a `with` block Ctrl-C and SIGTERM are such a reason.

    A second signal calls `hurry`, which cuts short what is under way. A third one is a KeyboardInterrupt.

    Attributes:
        reason: Empty while the run goes on.
        signals: How many came.
    """

    def __init__(self, terminal: Console, hurry: Callable[[], object]) -> None:
        self.reason = ""
        self.signals = 0
        self._hurry = hurry
        self._terminal = terminal
        self._earlier: dict[int, Any] = {}
        self._lock = threading.RLock()  # a signal may come while this very thread holds it

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may have handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as in scripts, behind `&`
                    self._earlier[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def because(self, reason: str) -> None:
        """Stops the run; the first reason counts."""
        with self._lock:
            self.reason = self.reason or reason

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1
        match self.signals:
            case 1:
                self.because("the same command goes on from here")
                console.write_warning("stopping when what is under way is done; Ctrl-C stops at once", self._terminal)
            case 2:
                self._hurry()
            case _:
                raise KeyboardInterrupt
