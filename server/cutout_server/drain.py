"""The end of a server: new calls are turned away, those that are there are finished."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cutout_server.errors import UnavailableError


class Drain:
    """Counts the calls inside.

    Attributes:
        begun: Set when no more calls are let in.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Counts a call in and out.

        Raises:
            UnavailableError: The server is draining.
        """
        if self.begun.is_set():
            raise UnavailableError("the server is shutting down", retry_after_s=1.0, reason="DRAINING")
        self._inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._idle.set()

    async def emptied(self) -> None:
        """Returns once no call is left inside."""
        await self._idle.wait()
