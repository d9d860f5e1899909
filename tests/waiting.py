"""How tests wait: for a state, never for a time, and so long that only a hang meets the end."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

# Given to whatever takes a timeout in a test that is not about that timeout. Well below pytest's own limit for a test.
PATIENCE_S = 300.0

# What has not changed for so long is taken for the end of it, which can hide a fault but never make one.
SETTLED_S = 1.0
# What should be done in a moment never computes for so long, on any processor.
CPU_SECONDS = 30.0

Found = TypeVar("Found")


def wait_until(probe: Callable[[], Found]) -> Found:
    """What the probe gives as soon as it is true; fails when that never happens."""
    end = time.monotonic() + PATIENCE_S
    while not (found := probe()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def settled(probe: Callable[[], Found]) -> Found:
    """What the probe gives once it has given the same for a while."""
    found, since, end = probe(), time.monotonic(), time.monotonic() + PATIENCE_S
    while time.monotonic() - since < SETTLED_S:
        assert time.monotonic() < end, "it never settled"
        time.sleep(0.02)
        if (now := probe()) != found:
            found, since = now, time.monotonic()
    return found


async def until(probe: Callable[[], Found]) -> Found:
    """The same on an event loop."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := probe()):  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)
    return found


@contextmanager
def at_little_cost() -> Iterator[None]:
    """Fails when this thread computes without end; its CPU time, which other processes do not stretch, is measured."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < CPU_SECONDS
