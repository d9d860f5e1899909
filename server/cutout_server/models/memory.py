"""How freed memory is kept, and how it is given back."""

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Makes glibc's malloc reuse blocks of up to 32 MiB instead of mapping and faulting each large temporary anew.

    That is worth a third of an encoder's pass on the CPU, and half of the time of a 1 MiB message. With another libc
    nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024)
        mallopt(M_TRIM_THRESHOLD, 512 * 1024 * 1024)


def give_back(device: str) -> None:
    """After a model was dropped: collects garbage, empties the device's cache, and trims the heap."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.empty_cache()
    trim()


def trim() -> None:
    """Gives the heap's free blocks back to the system; lets other threads run meanwhile."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def in_use(device: str) -> tuple[int, int]:
    """(used, total) bytes: of the GPU for a CUDA device, of this process and the machine for the CPU.

    (0, 0) while nothing has been loaded onto a CUDA device, because looking would claim memory on it.
    """
    if device.startswith("cuda"):
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return 0, 0
        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        used = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * page
    except OSError:  # not Linux
        used = 0
    return used, os.sysconf("SC_PHYS_PAGES") * page
