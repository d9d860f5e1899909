"""What models take of a device's memory, and how it is given back."""

import gc
import os
import sys
from pathlib import Path

from cutout_common.heap import trim


def give_back(device: str) -> None:
    """After a model was dropped: collects garbage, empties the device's cache, and trims the heap."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.empty_cache()
    trim()


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
