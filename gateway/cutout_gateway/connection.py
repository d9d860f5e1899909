"""How the gateway serves a connection; what uvicorn leaves open about its life is settled here."""

from typing import Any

import h11
import structlog
import uvicorn
from cutout_common.certificates import CertificateFiles
from cutout_common.config import ConfigError
from cutout_common.pace import Pace
from starlette.types import ASGIApp

from cutout_gateway.bounded import Bounded, allow_files
from cutout_gateway.settings import GatewaySettings

log = structlog.get_logger("cutout_gateway")
PATIENCE_S = 2.0
FIRST_PAUSE_S = 0.1


class Serving(uvicorn.Config):
    """What uvicorn serves, and how.

    Args:
        app: The gateway's application.
        settings: Its settings.

    Raises:
        ConfigError: The certificate or its key cannot be used.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self.settings = settings
        allow_files(settings.max_connections)
        self.pace = Pace(1.0)
        self._files: CertificateFiles | None = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            self._files = CertificateFiles(settings.tls_cert, settings.tls_key)
            self._files.check()
        super().__init__(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # It would believe anybody on this machine; see `trusted_proxies`.
            proxy_headers=False,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        self.load()

    def read_certificate_again(self) -> None:
        """Before each new connection: if the files have changed, it gets what they hold by now."""
        if self._files is None or self.ssl is None or not self._files.changed():
            return
        try:
            self._files.check()
        except ConfigError as error:  # half written, perhaps
            log.error("the certificate of before goes on", error=str(error))  # noqa: TRY400 - its text says it all
            return
        self.ssl.load_cert_chain(self._files.chain, self._files.key)
        log.info("certificate read again", tls_cert=str(self._files.chain))


class Connection(Bounded):
    """A connection whose client may end its own side after its last request, and still gets the answer.

    TCP does not tell such a client from one that has left, until something is sent to it: the first reads on, the other
    one's machine resets the connection. So a client that has ended its side for a while is sent `100 Continue`, which
    every client of HTTP/1.1 skips (RFC 9110, section 15.2), again and again with growing pauses.
    """

    _silent_since = 0.0
    _half_closed = False

    def __init__(self, config: Serving, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.settings = config.settings
        self.pace = config.pace
        config.read_certificate_again()

    def data_received(self, data: bytes) -> None:
        """Takes what the client sends."""
        self._silent_since = self.loop.time()
        super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn always closes
        """Says whether the connection stays open although the client has ended its side; TLS knows no such thing."""
        if super().eof_received():
            return True
        # A client that means to read on ends its side right behind its request, and is not bothered for a while.
        bothered = self._silent_since + PATIENCE_S
        left = self.cycle is not None and self.cycle.response_started and self.loop.time() > bothered
        if not self._awaits_answer() or left or self.scheme == "https":
            return None
        if self._broken:
            self.cycle.message_event.set()  # Of what is dropped behind the answer, no more will come.
        if not self._half_closed:
            self._half_closed = True
            self.loop.call_at(bothered, self._see_who_is_there, FIRST_PAUSE_S)
        return True

    def on_response_complete(self) -> None:
        """Goes on with the next request, if it has been sent; the end of a body that nobody wants is not awaited."""
        super().on_response_complete()
        body_goes_on = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if body_goes_on or (self._half_closed and not self._awaits_answer()):
            self.transport.close()

    def _see_who_is_there(self, pause_s: float) -> None:
        if self.transport.is_closing():
            return
        # An answer that has begun shows it by itself, and in HTTP/1.0 the interim one would be taken for it.
        if not self.cycle.response_started and self.conn.their_http_version == b"1.1":
            interim = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self.transport.write(self.conn.send(interim))
        self.loop.call_later(pause_s, self._see_who_is_there, 2 * pause_s)
