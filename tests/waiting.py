"""How tests wait: for a state, never for a time, and so long that only a hang meets the end."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

# Given to whatever takes a timeout in a test that is not about that timeout. Well below pytest's own limit for a test.
PATIENCE_S = 300.0

Found = TypeVar("Found")


def wait_until(probe: Callable[[], Found]) -> Found:
    """What the probe gives as soon as it is true; fails when that never happens."""
    end = time.monotonic() + PATIENCE_S
    while not (found := probe()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


async def until(probe: Callable[[], Found]) -> Found:
    """The same on an event loop."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := probe()):  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)
    return found
