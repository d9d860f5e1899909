"""The processes that decode pictures for the servers that a test runs."""

import os

import psutil
import pytest


class DecodeProcesses:
    """Those that began since: other servers of this process may keep theirs."""

    def __init__(self) -> None:
        self._others = set(_all())

    def __call__(self) -> list[psutil.Process]:
        """Those that run now."""
        return [process for process in _all() if process not in self._others]


@pytest.fixture
def decode_processes() -> DecodeProcesses:
    return DecodeProcesses()


def _all() -> list[psutil.Process]:
    """Those of this process; what else a test has started, or Python has for itself, is none."""
    found = []
    for child in psutil.Process().children():
        try:
            command = child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # It has just ended.
            continue
        if command and command[-1] == str(os.getpid()):  # A decoder is told last whose it is.
            found.append(child)
    return found
