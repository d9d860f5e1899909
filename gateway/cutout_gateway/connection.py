"""How the gateway serves a connection; what uvicorn leaves open about its life is settled here."""

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cutout_gateway.settings import GatewaySettings

PATIENCE_S = 2.0
FIRST_PAUSE_S = 0.1


def serving(app: ASGIApp, settings: GatewaySettings) -> uvicorn.Config:
    """What uvicorn serves, and how.

    Raises:
        OSError: A TLS file cannot be read.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    config.load()
    return config


class Connection(H11Protocol):
    """A connection whose client may end its own side after its last request, and still gets the answer.

    TCP does not tell such a client from one that has left, until something is sent to it: the first reads on, the other
    one's machine resets the connection. So a client that has ended its side for a while is sent `100 Continue`, which
    every client of HTTP/1.1 skips (RFC 9110, section 15.2), again and again with growing pauses.
    """

    _silent_since = 0.0
    _half_closed = False

    def data_received(self, data: bytes) -> None:
        """Takes what the client sends."""
        self._silent_since = self.loop.time()
        super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn always closes
        """Says whether the connection stays open although the client has ended its side; TLS knows no such thing."""
        # A client that means to read on ends its side right behind its request, and is not bothered for a while.
        bothered = self._silent_since + PATIENCE_S
        left = self.cycle is not None and self.cycle.response_started and self.loop.time() > bothered
        if not self._awaits_answer() or left or self.scheme == "https":
            return None
        if not self._half_closed:
            self._half_closed = True
            self.loop.call_at(bothered, self._see_who_is_there, FIRST_PAUSE_S)
        return True

    def on_response_complete(self) -> None:
        """Goes on with the next request, if it has been sent."""
        super().on_response_complete()
        if self._half_closed and not self._awaits_answer():
            self.transport.close()

    def _awaits_answer(self) -> bool:
        """Whether a whole request is there, and not yet the whole answer."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _see_who_is_there(self, pause_s: float) -> None:
        if self.transport.is_closing():
            return
        # An answer that has begun shows it by itself, and in HTTP/1.0 the interim one would be taken for it.
        if not self.cycle.response_started and self.conn.their_http_version == b"1.1":
            interim = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self.transport.write(self.conn.send(interim))
        self.loop.call_later(pause_s, self._see_who_is_there, 2 * pause_s)
