"""What tests need of the system: tools (skipped with the reason where they are missing, never in CI), ports, Ctrl-C."""

import contextlib
import os
import random
import shutil
import signal
import socket
from typing import NoReturn

import pytest

CI = bool(os.environ.get("CI"))

# A client of gRPC that reads nothing of an answer takes in little more than this. Its window widens as the line allows
# otherwise, now and then until whole answers fit, and those nobody has to wait for.
FIXED_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)]


def unmet(reason: str) -> NoReturn:
    """Skips a test that cannot be run here; in CI that is a failure."""
    (pytest.fail if CI else pytest.skip)(reason)


def require(tool: str, hint: str) -> str:
    """Path of a program that a test needs."""
    return shutil.which(tool) or unmet(f"{tool} is not installed: {hint}")


def free_port() -> int:
    """A loopback port that nothing listens on, from a range out of which the system itself gives none away."""
    while True:
        port = random.randrange(10_000, 32_000)  # noqa: S311 - no secret
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def ctrl_c() -> None:
    """What Ctrl-C has Python do: the handler that is set now is called, in the main thread.

    A signal itself, raised in one of the processes of a run over several, has ended that process without a word.
    """
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)
