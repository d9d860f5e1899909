"""Work in threads that is waited for though its caller has left: what it has in hand can be put away only then."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(doing: Awaitable[T]) -> T:
    """What the work gives. Whoever is cancelled waits for its end first."""
    work = asyncio.ensure_future(doing)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
