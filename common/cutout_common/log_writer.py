"""Log lines on their way to a stream that may be slow, or that nobody reads."""

import contextlib
import os
import select
import threading
from collections import deque

import structlog

# Some ten thousand lines; whoever reads the stream has them to catch up with.
MAX_CHARACTERS = 4 * 1024 * 1024
FAREWELL_S = 1.0


class LogWriter:
    """A text stream to write lines to, which never waits: a thread of its own writes them to a file descriptor.

    What finds no room is left out and counted; once there is room again, a line tells how many were.

    Attributes:
        dropped: Lines left out so far.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._untold = 0
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._characters = 0
        self._busy = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: str) -> int:
        """Takes a line, or leaves it out."""
        with self._changed:
            if self._characters + len(line) > MAX_CHARACTERS:
                self.dropped += 1
                self._untold += 1
            else:
                self._lines.append(line)
                self._characters += len(line)
                self._changed.notify_all()
        return len(line)

    def flush(self) -> None:
        """Nothing: loggers call it after each line, and would wait."""

    def finish(self) -> None:
        """Waits a moment for the lines that have not been written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._busy, FAREWELL_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                text = "".join(self._lines)
                self._lines.clear()
                self._busy = True
            with contextlib.suppress(OSError):  # nobody is there any more
                self._put(memoryview(text.encode("utf-8", "backslashreplace")))
            with self._changed:
                self._characters -= len(text)
                self._busy = False
                untold, self._untold = self._untold, 0
                self._changed.notify_all()
            if untold:
                structlog.get_logger().warning("log lines left out, as nobody read them", lines=untold)

    def _put(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # a terminal whose descriptor another program made non-blocking
                select.select([], [self._descriptor], [])
