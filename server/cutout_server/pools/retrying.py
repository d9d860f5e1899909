"""Waiting for room as callers are told to, by whoever is in already and need not be refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cutout_server import call_context
from cutout_server.errors import OverloadedError, QuotaError

T = TypeVar("T")

# What comes again by itself; memory that others hold, for one, may never.
_PASSING = {OverloadedError.default_reason, QuotaError.default_reason}


async def until_there_is_room(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks, and asks again when it is time, while devices are full or a quota of the caller's is used up.

    The waiting counts to the current call's queue.
    """
    while True:
        try:
            return await ask()
        except (OverloadedError, QuotaError) as full:
            if full.retry_after_s is None or full.reason not in _PASSING:
                raise
            with call_context.stage("queue"):
                await asyncio.sleep(full.retry_after_s)
