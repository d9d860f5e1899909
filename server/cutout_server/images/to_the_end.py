"""Work in threads that is waited for though its caller has left: what it has in hand can be put away only then."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(doing: Awaitable[T]) -> T:
    """What the work gives. Whoever is cancelled, be it twice, waits for its end first."""
    work = asyncio.ensure_future(doing)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        raise
