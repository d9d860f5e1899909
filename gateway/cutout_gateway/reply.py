"""Answers: whole, or piece by piece as fast as the client reads."""

from collections.abc import Iterable

from google.protobuf.descriptor_pool import DescriptorPool
from starlette.types import Send

from cutout_gateway.body import Body
from cutout_gateway.errors import HttpError, status_json
from cutout_gateway.in_hand import ROOM_S, Part
from cutout_gateway.transcode import JSON, dumps

# The transport copies what its client has no room for yet.
SLICE = 256 * 1024

Fields = Iterable[tuple[str, str]]


class Reply:
    """The answer to one request.

    Attributes:
        started: Whether its status has been sent, so that another can no longer be.
    """

    def __init__(self, send: Send, body: Body, in_hand: Part | None = None) -> None:
        self._send = send
        self._body = body
        self._in_hand = in_hand
        self.started = False

    async def hold(self, nbytes: int, *, patient: bool) -> None:
        """So many bytes of the answer are in hand, until they are dropped.

        Raises:
            HttpError: 429 when there is no room for them; at once unless it is waited for.
        """
        if self._in_hand is not None:
            await self._in_hand.add(nbytes, ROOM_S if patient else 0)

    def drop(self) -> None:
        """What was held has been taken in."""
        if self._in_hand is not None:
            self._in_hand.drop()

    async def begin(self, status: int, content_type: str, headers: Fields = ()) -> None:
        """Sends the status and the headers."""
        self.started = True
        fields = [("content-type", content_type), ("x-content-type-options", "nosniff"), *headers]
        raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in fields]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def piece(self, data: bytes) -> None:
        """Sends a piece of the body, as fast as the client takes it in."""
        for start in range(0, len(data), SLICE):
            await self._send({"type": "http.response.body", "body": data[start : start + SLICE], "more_body": True})

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
