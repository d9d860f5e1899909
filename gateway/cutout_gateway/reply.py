"""Answers: whole, or piece by piece as fast as the client reads."""

from collections.abc import Iterable

from google.protobuf.descriptor_pool import DescriptorPool
from starlette.types import Send

from cutout_gateway.body import Body
from cutout_gateway.errors import HttpError, status_json
from cutout_gateway.transcode import JSON, dumps

Fields = Iterable[tuple[str, str]]


class Reply:
    """The answer to one request.

    Attributes:
        started: Whether its status has been sent, so that another can no longer be.
    """

    def __init__(self, send: Send, body: Body) -> None:
        self._send = send
        self._body = body
        self.started = False

    async def begin(self, status: int, content_type: str, headers: Fields = ()) -> None:
        """Sends the status and the headers."""
        self.started = True
        fields = [("content-type", content_type), ("x-content-type-options", "nosniff"), *headers]
        raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in fields]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def piece(self, data: bytes) -> None:
        """Sends a piece of the body; returns once the client has room for more."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Ends the body."""
        await self._send({"type": "http.response.body", "body": b""})

    async def whole(self, status: int, data: bytes, content_type: str, headers: Fields = ()) -> None:
        """Sends all of an answer; what is left of the request is read first, as clients send all before they look."""
        await self.begin(status, content_type, [("content-length", str(len(data))), *headers])
        await self.piece(data)
        await self._body.discard()
        await self.end()

    async def error(self, failure: HttpError, pool: DescriptorPool, request_id: str) -> None:
        """Sends an error."""
        data = dumps(status_json(failure.status, pool, request_id))
        await self.whole(failure.http_status, data, JSON, failure.headers.items())
