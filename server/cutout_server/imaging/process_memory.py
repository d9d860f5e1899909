"""A bound on the memory of this process: a few bytes of a file can ask a demuxer for gigabytes."""

import mmap
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(nbytes: int) -> Iterator[None]:
    """Lets this process have so many bytes of address space beyond what it has, for the block; on Linux.

    Raises:
        MemoryError: From whatever asks for more.
    """
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + nbytes
    bounds = [most, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
