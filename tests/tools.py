"""System tools that some tests need: skipped with the reason where they are missing, never in CI."""

import os
import shutil
import socket

import pytest

CI = bool(os.environ.get("CI"))


def require(tool: str, hint: str) -> str:
    """Path of a program, or a skip that says how to get it; in CI its absence is a failure."""
    path = shutil.which(tool)
    if path is None:
        (pytest.fail if CI else pytest.skip)(f"{tool} is not installed: {hint}")
    return path


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
