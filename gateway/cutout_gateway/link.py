"""The gateway's channel to the server, and a new one when that is better."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import grpc
import structlog
from cutout_common import channels, reach

from cutout_gateway.settings import GatewaySettings

log = structlog.get_logger("cutout_gateway")
# The gateway bounds its bodies itself.
OPTIONS = (*channels.OPTIONS, ("grpc.max_send_message_length", -1))
SETTINGS = reach.Settings("server_tls_ca", "server_tls_ca", "server_tls_cert and server_tls_key")
EXAMINE_S = 10.0


@dataclass(frozen=True)
class Server:
    """Where the server is, and how it and the gateway know each other.

    Attributes:
        address: As gRPC takes it.
        tls: How the server is known; None without TLS.
        credentials: The same for gRPC, with what is shown to the server.
    """

    address: str
    tls: reach.Tls | None
    credentials: grpc.ChannelCredentials | None

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """The one that the settings name.

        Raises:
            OSError: A TLS file cannot be read.
        """
        if settings.server_tls_ca is None:
            return cls(settings.server_address, None, None)
        files = (settings.server_tls_ca, settings.server_tls_key, settings.server_tls_cert)
        roots, key, certificate = (file.read_bytes() if file else None for file in files)
        credentials = grpc.ssl_channel_credentials(roots, key, certificate)
        return cls(settings.server_address, reach.Tls(roots, certificate is not None), credentials)


class Link:
    """Connects to the server at once and again, within seconds after any outage.

    Attributes:
        channel: For the next call; another one once the server could not be reached.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._retiring: set[asyncio.Task[None]] = set()
        self._found: str | None = ""
        self.channel = self._open()

    async def watch(self) -> None:
        """Looks after the channel until it is cancelled."""
        while True:
            state = self.channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                self._log("")
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                task = asyncio.create_task(channels.retire(self.channel))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
                self.channel = self._open()
                self._log(await asyncio.to_thread(self._examine))
            await asyncio.sleep(channels.RENEW_S)

    async def close(self) -> None:
        """Ends all calls."""
        for task in self._retiring:
            task.cancel()
        await self.channel.close()

    def _examine(self) -> str | None:
        return reach.examine(self._server.address, self._server.tls, SETTINGS, EXAMINE_S)

    def _log(self, found: str | None) -> None:
        """Tells whoever runs the gateway, once, what keeps it from the server; callers do not learn addresses."""
        if found != self._found:
            self._found = found
            if found:
                log.warning(f"cannot reach the server at {self._server.address}: {found}", server=self._server.address)
            elif found == "":
                log.info(f"the server at {self._server.address} answers again", server=self._server.address)

    def _open(self) -> grpc.aio.Channel:
        if self._server.credentials is None:
            return grpc.aio.insecure_channel(self._server.address, OPTIONS)
        return grpc.aio.secure_channel(self._server.address, self._server.credentials, OPTIONS)


@asynccontextmanager
async def linked(server: Server) -> AsyncIterator[Link]:
    """A link that is looked after as long as the context lasts."""
    link = Link(server)
    watching = asyncio.create_task(link.watch())
    try:
        yield link
    finally:
        watching.cancel()
        await link.close()
