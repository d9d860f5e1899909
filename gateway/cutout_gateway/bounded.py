"""How many connections there may be, and how long one may take over the headers of a request."""

import asyncio
import resource

import h11
import structlog
from cutout_common import forwarded
from cutout_common.pace import Pace
from google.protobuf.json_format import MessageToJson

from cutout_gateway.errors import too_many_connections, too_slow
from cutout_gateway.protocol import Protocol
from cutout_gateway.settings import GatewaySettings

log = structlog.get_logger("cutout_gateway")
# Beside its connections the gateway has some files open: the channel to the server, logs, pipes.
SPARE_FILES = 64


def allow_files(connections: int) -> None:
    """Raises the bound on open files as far as the system lets it, so that there can be so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Bounded(Protocol):
    """A connection that is one of a bounded number, and whose client sends its headers in a bounded time."""

    settings: GatewaySettings
    pace: Pace
    _made_s = 0.0
    _heard = False
    _headers_due: asyncio.TimerHandle | None = None
    _stalled_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Turns away one too many, by an answer that says so."""
        super().connection_made(transport)
        address = _address(self)
        of_this_client = 0  # A proxy's connections are those of many clients.
        if not forwarded.is_among(forwarded.address(address), self.settings.trusted_proxies):
            of_this_client = sum(_address(other) == address for other in self.connections)
        if len(self.connections) > self.settings.max_connections:
            self._turn_away("the gateway has", self.settings.max_connections)
        elif of_this_client > self.settings.max_connections_per_client:
            self._turn_away("one address has", self.settings.max_connections_per_client)
        else:
            self._made_s = self.loop.time()
            if len(self.connections) == 1:
                self.pace.began()
            self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._heard = True
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._headers_due is None and not self._awaits_answer():
            self._await_headers()  # a next request on the same connection has begun

    def pause_writing(self) -> None:
        """The client has no room for more."""
        super().pause_writing()
        self._await_progress()

    def resume_writing(self) -> None:
        """It has again."""
        super().resume_writing()
        self._stop_awaiting_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        if self._made_s:
            self.pace.given_back(self.loop.time() - self._made_s, max(1, len(self.connections)))
        self._stop_waiting()
        self._stop_awaiting_progress()
        super().connection_lost(exc)

    def _awaits_answer(self) -> bool:
        """Whether a whole request is there, and not yet the whole answer."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.settings.headers_timeout_s, self._end)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _end(self) -> None:
        self._headers_due = None
        if not self._heard:
            self.transport.close()  # opened ahead of need, as browsers do
        elif not self.transport.is_closing():
            self.refuse(too_slow("the headers", self.settings.headers_timeout_s))

    def _await_progress(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stalled_due = self.loop.call_later(self.settings.max_stall_s, self._end_if_stalled, left)

    def _stop_awaiting_progress(self) -> None:
        if self._stalled_due is not None:
            self._stalled_due.cancel()
            self._stalled_due = None

    def _end_if_stalled(self, before: int) -> None:
        """Ends the connection unless the client has taken in as much as it must."""
        taken = before - self.transport.get_write_buffer_size()
        if taken < min(before, self.settings.min_body_bytes_per_s * self.settings.max_stall_s):
            log.warning("client stalled", client=_address(self))
            self.transport.abort()
        else:
            self._await_progress()

    def _turn_away(self, whose: str, limit: int) -> None:
        refused = too_many_connections(whose, limit, self.pace.delay_s())
        log.warning("connection refused", client=_address(self), reason=refused.status.message)
        # Without the application, which is what there are too many connections for.
        body = MessageToJson(refused.status, indent=None).encode()
        head = f"HTTP/1.1 {refused.http_status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        rest = "".join(f"{name}: {value}\r\n" for name, value in refused.headers.items())
        self.transport.write(f"{head}{rest}\r\n".encode() + body)
        self.transport.close()


def _address(connection: object) -> str:
    client: tuple[str, int] | None = getattr(connection, "client", None)
    return client[0] if client else ""
