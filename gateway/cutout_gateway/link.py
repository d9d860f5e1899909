"""The gateway's channel to the server, and a new one when that is better."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from cutout_common import channels

# The gateway bounds its bodies itself.
OPTIONS = (*channels.OPTIONS, ("grpc.max_send_message_length", -1))


class Link:
    """Connects to the server at once and again, within seconds after any outage.

    Attributes:
        channel: For the next call; another one once the server could not be reached.
    """

    def __init__(self, address: str, shown: grpc.ChannelCredentials | None) -> None:
        self._address = address
        self._shown = shown
        self._retiring: set[asyncio.Task[None]] = set()
        self.channel = self._open()

    async def watch(self) -> None:
        """Looks after the channel until it is cancelled."""
        while True:
            if self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                task = asyncio.create_task(channels.retire(self.channel))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
                self.channel = self._open()
            await asyncio.sleep(channels.RENEW_S)

    async def close(self) -> None:
        """Ends all calls."""
        for task in self._retiring:
            task.cancel()
        await self.channel.close()

    def _open(self) -> grpc.aio.Channel:
        if self._shown is None:
            return grpc.aio.insecure_channel(self._address, OPTIONS)
        return grpc.aio.secure_channel(self._address, self._shown, OPTIONS)


@asynccontextmanager
async def linked(address: str, shown: grpc.ChannelCredentials | None) -> AsyncIterator[Link]:
    """A link that is looked after as long as the context lasts."""
    link = Link(address, shown)
    watching = asyncio.create_task(link.watch())
    try:
        yield link
    finally:
        watching.cancel()
        await link.close()
