"""The channel to a server, and a new one when that is better."""

import asyncio
import threading
import time
from typing import Any

from cutout_common import channels

from cutout_client.transport import Connection, Stubs


class Link:
    """A channel with its stubs, of `grpc` or `grpc.aio`.

    While no server answers, a call may get a new channel.
    """

    def __init__(self, connection: Connection, library: Any) -> None:
        self._connection = connection
        self._library = library
        self._lock = threading.Lock()
        self._open()

    @property
    def stubs(self) -> Stubs:
        """The RPCs, for the next call."""
        with self._lock:
            if self._connection.unanswered.is_set() and time.monotonic() > self._opened + channels.RENEW_S:
                self._retire(self.channel)
                self._open()
            return self._stubs

    def _open(self) -> None:
        self._connection.unanswered.clear()
        self._opened = time.monotonic()
        self.channel = self._connection.channel(self._library)
        self._stubs = Stubs(self.channel)

    def _retire(self, channel: Any) -> None:
        """Lets go of a channel; gRPC closes it behind its last call."""


class AsyncLink(Link):
    """The same for asyncio, where a channel that nobody holds would end its calls."""

    def __init__(self, connection: Connection, library: Any) -> None:
        self._retiring: set[asyncio.Task[None]] = set()
        super().__init__(connection, library)

    def _retire(self, channel: Any) -> None:
        task = asyncio.get_running_loop().create_task(channels.retire(channel))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Ends all calls, those through channels that were replaced as well."""
        for task in self._retiring:
            task.cancel()
        await self.channel.close()
