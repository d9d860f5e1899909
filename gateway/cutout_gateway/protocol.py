"""HTTP/1.1 as uvicorn speaks it, but for its refusals: the application makes those, as it makes all others."""

import asyncio
import logging
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from cutout_gateway.errors import HttpError, malformed

REFUSED = "refused"
"""Under this key a request's state has the HttpError that its bytes are to be answered with."""

# Each chunk of a body is tens of microseconds of Python, and six bytes are one: of more lines than that, so many bytes
# are taken in at a time, and others have their turn in between.
MANY_LINES = 100
FEW_BYTES = 512


class Protocol(H11Protocol):
    """One connection. Once its bytes are no HTTP, what still comes is dropped, and it ends with the answer."""

    _broken = False
    _has_ended = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._untaken = bytearray()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._broken:
            return
        if not self._untaken and data.count(b"\r\n") <= MANY_LINES:
            super().data_received(data)
            return
        if not self._untaken:
            self.loop.call_soon(self._take_some)
        self._untaken += data
        self.transport.pause_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Says whether the connection stays open although the client ended its side: until all is taken in."""
        self._has_ended = bool(self._untaken) and self.scheme != "https"
        return self._has_ended

    def _take_some(self) -> None:
        some = bytes(self._untaken[:FEW_BYTES])
        del self._untaken[:FEW_BYTES]
        if self._broken or self.transport.is_closing():
            self._untaken.clear()
        else:
            super().data_received(some)
        if self._untaken:
            self.loop.call_soon(self._take_some)
        elif self._has_ended:
            if not self.eof_received():
                self.transport.close()
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn amid the handling of what is wrong."""
        self._broken = True
        failure = sys.exception()
        hint = failure.error_status_hint if isinstance(failure, h11.RemoteProtocolError) else 400
        refused = malformed(hint, str(failure or msg).partition(": bytearray")[0])
        if self.conn.our_state is h11.SEND_RESPONSE and self.cycle is not None and not self.cycle.response_complete:
            # A body that breaks off into something else: whoever reads it is told.
            self.cycle.scope["state"][REFUSED] = refused
            self.cycle.more_body = False
            self.cycle.message_event.set()
        elif self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self.refuse(refused)
        # Otherwise the answer to the request is on its way, and the connection ends after it.

    def refuse(self, refused: HttpError) -> None:
        """Has the application answer a request of which no more is known than that it is none."""
        self._broken = True
        self.cycle = RequestResponseCycle(
            scope={
                "type": "http",
                "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
                "http_version": "1.1",
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme or "http",
                "method": "",
                "root_path": "",
                "path": "",
                "raw_path": b"",
                "query_string": b"",
                "headers": [],
                "state": self.app_state | {REFUSED: refused},
            },
            conn=self.conn,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=logging.getLogger("uvicorn.access"),
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self.on_response_complete,
        )
        self.cycle.more_body = False
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
