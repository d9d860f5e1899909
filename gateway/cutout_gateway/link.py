"""The gateway's channels to its servers, and new ones when that is better."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Self

import grpc
import structlog
from cutout_common import channels, reach
from cutout_common.addresses import Addresses
from cutout_common.failover import Course, Losses
from cutout_common.fleet import Fleet, Member
from cutout_common.routing import Place

from cutout_gateway.settings import GatewaySettings

log = structlog.get_logger("cutout_gateway")
# The gateway bounds its bodies itself.
UNBOUNDED = ("grpc.max_send_message_length", -1)
OPTIONS = (*channels.OPTIONS, UNBOUNDED)
ROUNDS = 3
SETTINGS = reach.Settings("server_tls_ca", "server_tls_ca", "server_tls_cert and server_tls_key")
EXAMINE_S = 10.0


@dataclass(frozen=True)
class Server:
    """Where the server is, and how it and the gateway know each other.

    Attributes:
        address: As gRPC takes it.
        tls: How the server is known; None without TLS.
        credentials: The same for gRPC, with what is shown to the server.
        options: Of the channel to it.
    """

    address: str
    tls: reach.Tls | None
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, str | int], ...] = OPTIONS

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
            return grpc.aio.insecure_channel(self._server.address, self._server.options)
        return grpc.aio.secure_channel(self._server.address, self._server.credentials, self._server.options)


class Links:
    """The links to all servers that there are now, each looked after by itself."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._addresses = Addresses(server.address)
        self._fleet = Fleet()
        self._links: dict[Member, Link] = {}
        self._watching: dict[Member, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Connects to all of them."""
        await asyncio.to_thread(self._addresses.now)
        self._look()

    def course(self, place: Place) -> Course:
        """The tries of a call."""
        self._look()
        return Course(self._fleet, place, Losses(), ROUNDS if self._addresses.are_many else 0)

    def channel(self, member: Member) -> grpc.aio.Channel:
        """That to a server, for the next call."""
        return self._links[member].channel if member in self._links else self._join(member).channel

    def channels(self) -> list[grpc.aio.Channel]:
        """Those to all of them."""
        self._look()
        return [self.channel(member) for member in self._fleet]

    async def close(self) -> None:
        """Ends all calls."""
        for task in (*self._watching.values(), *self._leaving):
            task.cancel()
        for link in self._links.values():
            await link.close()

    def _look(self) -> None:
        self._fleet.become(self._addresses.now())
        for member in self._links.keys() - set(self._fleet):
            self._watching.pop(member).cancel()
            leaving = asyncio.create_task(channels.retire(self._links.pop(member).channel))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        for member in set(self._fleet) - self._links.keys():
            self._join(member)

    def _join(self, member: Member) -> Link:
        server = replace(self._server, address=member.address)
        if self._addresses.are_many:
            host = self._addresses.host(member.address)
            authority = (("grpc.default_authority", host),) if host else ()
            server = replace(server, options=(*channels.OF_MANY, UNBOUNDED, *authority))
        link = self._links[member] = Link(server)
        self._watching[member] = asyncio.create_task(link.watch())
        return link


@asynccontextmanager
async def linked(server: Server) -> AsyncIterator[Links]:
    """Links that are looked after as long as the context lasts."""
    links = Links(server)
    await links.begin()
    try:
        yield links
    finally:
        await links.close()
