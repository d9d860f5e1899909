"""Tests of models in their published sizes: one at a time on a machine, and each says the memory that it takes.

`@pytest.mark.full_size(gigabytes=...)` holds a lock over all processes, asks for that much free memory, and fails when
the test took more. What was taken is printed at the end of the run.
"""

import getpass
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cutout_server.models.memory import give_back
from filelock import FileLock
from kept_memory import keep_nothing

from tools import unmet

LOCK = Path(tempfile.gettempdir(), f"cutout-full-size-{getpass.getuser()}.lock")
TAKEN = "gigabytes"
START = pytest.StashKey[float]()
CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux alone has it: elsewhere peaks are not measured.


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Waits for the lock outside of what the test's own limit measures."""
    if _gigabytes(item) is None:
        return (yield)
    with FileLock(LOCK):
        give_back("cpu")  # What other tests have left,
        try:
            return (yield)
        finally:
            give_back("cpu")  # and what the next in line needs.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Is there so much memory? Begins a new peak."""
    if (needed := _gigabytes(item)) is None:
        return
    if (free := psutil.virtual_memory().available / 1e9) < needed:
        unmet(f"takes {needed} GB of memory, and {free:.1f} are free")
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")
        item.stash[START] = _status("VmRSS")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Did it keep its word?"""
    if _gigabytes(item) is not None:
        keep_nothing()
    result = yield
    if (start := item.stash.get(START, None)) is not None:
        taken, said = _status("VmHWM") - start, _gigabytes(item)
        item.user_properties.append((TAKEN, f"{taken:.1f} of {said}"))
        assert taken <= said, f"took {taken:.1f} GB of memory, but its mark says {said}"
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what each took."""
    teardowns = terminalreporter.getreports("")
    lines = [f"{value} GB {each.nodeid}" for each in teardowns for name, value in each.user_properties if name == TAKEN]
    if lines:
        terminalreporter.section("memory of full-size tests")
        for line in lines:
            terminalreporter.line(line)


def _gigabytes(item: pytest.Item) -> float | None:
    marker = item.get_closest_marker("full_size")
    return None if marker is None else marker.kwargs["gigabytes"]


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(f"{field}:"))
