"""Request bodies, read with a bound."""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.types import Receive

from cutout_gateway.errors import ClientGoneError, HttpError, too_large, too_slow, unsupported
from cutout_gateway.in_hand import Part

LINGER_S = 5.0
# Time for a body beyond that which its length takes at the least rate.
GRACE_S = 20.0
LONG = 64 * 1024


class Body:
    """The body of one request, as it arrives.

    Attributes:
        ended: Whether the last of it has arrived, or the client has left.
        content_type: As the client says, without being believed.
    """

    def __init__(
        self, headers: Headers, receive: Receive, least_bytes_per_s: float = 1.0, in_hand: Part | None = None
    ) -> None:
        self._headers = headers
        self._receive = receive
        self._least_bytes_per_s = least_bytes_per_s
        self._in_hand = in_hand
        self._seconds_left = GRACE_S
        self._started = False
        self.ended = False
        self.content_type = headers.get("content-type", "")

    @property
    def is_long(self) -> bool:
        """Whether it is long, or does not say how long it is."""
        length = self._headers.get("content-length", "0")
        return "transfer-encoding" in self._headers or not length.isdigit() or int(length) > LONG

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The pieces in which it arrives.

        Raises:
            HttpError: 413 beyond `limit` bytes, at once when Content-Length tells; 415 when it is compressed.
            ClientGoneError: The client left before the end.
        """
        encodings = ",".join(self._headers.getlist("content-encoding"))
        if {encoding.strip().lower() for encoding in encodings.split(",")} - {"", "identity"}:
            raise unsupported(f"Content-Encoding {encodings} is not read; send the body as it is")
        length = self._headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        size = 0
        while not self.ended:
            chunk = await self._next()
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            if chunk:
                if self._in_hand is not None:
                    await self._in_hand.add(len(chunk))
                yield chunk

    async def read(self, limit: int) -> bytes:
        """All of it; raises what `chunks` does."""
        return b"".join([chunk async for chunk in self.chunks(limit)])

    async def blocks(self, limit: int, size: int) -> AsyncIterator[bytes]:
        """All of it in blocks of `size` bytes, the last one shorter; one empty block when there is nothing."""
        block, first = bytearray(), True
        async for chunk in self.chunks(limit):
            block += chunk
            while len(block) >= size:
                yield bytes(block[:size])
                self.drop(size)
                del block[:size]
                first = False
        if block or first:
            yield bytes(block)

    def drop(self, nbytes: int | None = None) -> None:
        """So much of it is used no more; all that was read if it does not say how much."""
        if self._in_hand is not None:
            self._in_hand.drop(nbytes)

    async def gone(self) -> None:
        """Waits until the client leaves, then raises.

        Raises:
            ClientGoneError: Always.
        """
        while not self.ended:
            await self._next()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise ClientGoneError

    async def discard(self) -> None:
        """Reads and forgets the rest for a short time, so that a client that still sends can read its answer."""
        # A client that asked whether to send is told by the answer itself.
        if not self._started and "expect" in self._headers:
            return
        try:
            async with asyncio.timeout(LINGER_S):
                while not self.ended:
                    await self._next()
        except (TimeoutError, ClientGoneError, HttpError):
            self.ended = True

    async def _next(self) -> bytes:
        self._started = True
        # Only the time in which nothing else is waited for counts: a slow server is not the client's fault.
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds_left):
                message = await self._receive()
        except TimeoutError:
            self.ended = True
            raise too_slow(f"{self._least_bytes_per_s:g} bytes of the body a second, or the rest", GRACE_S) from None
        self._seconds_left += began_s - time.monotonic() + len(message.get("body", b"")) / self._least_bytes_per_s
        if message["type"] == "http.disconnect":
            self.ended = True
            raise ClientGoneError
        self.ended = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk
