"""The channels to the servers, and new ones when that is better."""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

from cutout_common import channels
from cutout_common.addresses import Addresses
from cutout_common.failover import Course
from cutout_common.fleet import Fleet, Member

from cutout_client.connection import Connection
from cutout_client.transport import Call, Stubs


@dataclass
class Line:
    """A channel to one server, with its stubs, and when it was opened on the clock of time.monotonic."""

    channel: Any
    stubs: Stubs
    opened: float


class Link:
    """The channels to a fleet of servers, of `grpc` or `grpc.aio`.

    While a server does not answer, a call may get a new channel to it.
    """

    def __init__(self, connection: Connection, library: Any) -> None:
        self.addresses = Addresses(connection.address)
        self._fleet = Fleet()
        self._connection = connection
        self._library = library
        self._lock = threading.Lock()
        self._lines: dict[Member, Line] = {}
        self._closed = False

    def course(self, call: Call) -> Course:
        """The tries of a call. For one server alone gRPC makes them itself."""
        self._fleet.become(self.addresses.now())
        self._leave_those_that_left()
        retries = self._connection.retries
        rounds = retries if self.addresses.are_many else 0
        return Course(self._fleet, call.place, call.losses, rounds, asks_again=retries > 0)

    def stubs(self, member: Member) -> Stubs:
        """The RPCs of a server, for the next call."""
        with self._lock:
            if self._closed:
                raise ValueError("this client is closed")
            line = self._lines.get(member)
            if line is not None and member.failed and time.monotonic() > line.opened + channels.RENEW_S:
                self._retire(line.channel)
                line = None
            if line is None:
                line = self._lines[member] = self._open(member)
            return line.stubs

    def close(self) -> None:
        """Ends all calls."""
        for channel in self._take_all():
            channel.close()

    def _take_all(self) -> list[Any]:
        with self._lock:
            self._closed = True
            taken = [line.channel for line in self._lines.values()]
            self._lines.clear()
            return taken

    def _leave_those_that_left(self) -> None:
        with self._lock:
            for member in self._lines.keys() - set(self._fleet):
                self._retire(self._lines.pop(member).channel)

    def _open(self, member: Member) -> Line:
        channel = self._connection.channel(
            self._library, member.address, host=self.addresses.host(member.address), are_many=self.addresses.are_many
        )
        return Line(channel, Stubs(channel), time.monotonic())

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

    async def end(self) -> None:
        """Ends all calls, those through channels that were replaced as well."""
        for task in self._retiring:
            task.cancel()
        for channel in self._take_all():
            await channel.close()
