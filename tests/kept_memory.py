"""Memory that was freed is kept for what comes next, while a file's tests compute with large arrays.

To map such an array anew takes longer than to compute it: with a small encoder two thirds of the time are the kernel's,
which clears every page. With another libc than glibc nothing of it happens.
"""

import contextlib
import ctypes
from collections.abc import Iterator

import pytest

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MIB = 2**20


@pytest.fixture(scope="module")
def kept_memory() -> Iterator[None]:
    """What is kept is given back behind the file, by `conftest.tidy`."""
    _tell(M_TRIM_THRESHOLD, 512 * MIB)
    _tell(M_MMAP_MAX, 0)
    yield
    keep_nothing()


def keep_nothing() -> None:
    """As glibc has it itself once it has seen large arrays; full-size tests measure what they take."""
    _tell(M_MMAP_MAX, 65536)
    _tell(M_MMAP_THRESHOLD, 32 * MIB)
    _tell(M_TRIM_THRESHOLD, 64 * MIB)


def _tell(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)
