"""How freed memory is kept, and how it is given back. With another libc than glibc nothing of it happens."""

import contextlib
import ctypes
import threading

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

# Keeping less than this is no matter; looking for it takes milliseconds.
WORTH_BYTES = 128 * 1024 * 1024
# Whoever comes again at once finds it still there.
PAUSE_S = 1.0


def keep_freed() -> None:
    """Makes malloc reuse blocks of up to 32 MiB instead of mapping and faulting each large temporary anew.

    That is worth a third of an encoder's pass on the CPU, and half of the time of a 1 MiB message.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024)
        mallopt(M_TRIM_THRESHOLD, 512 * 1024 * 1024)


def trim() -> None:
    """Gives the heap's free blocks back to the system; lets other threads run meanwhile."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Trimmer:
    """Trims the heap a moment after much was freed, on a thread of its own; at most once in that time."""

    def __init__(self) -> None:
        self._freed = 0
        self._lock = threading.Lock()
        self._pending = False

    def freed(self, nbytes: int) -> None:
        """So much was freed, or will be in a moment."""
        with self._lock:
            self._freed += nbytes
            if self._freed < WORTH_BYTES or self._pending:
                return
            self._pending = True
        timer = threading.Timer(PAUSE_S, self._trim)
        timer.daemon = True
        timer.start()

    def _trim(self) -> None:
        with self._lock:
            self._freed, self._pending = 0, False
        trim()
