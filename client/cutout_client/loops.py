"""What an asynchronous client has on an event loop. gRPC ties a channel to the loop on which it was made."""

import asyncio
from collections.abc import Callable

from cutout_client.link import AsyncLink
from cutout_client.turns import AsyncTurns


class Line:
    """A link to the server, and the turns of its calls."""

    def __init__(self, link: AsyncLink, max_in_flight: int) -> None:
        self.link = link
        self.turns = AsyncTurns(max_in_flight)


class Lines:
    """One line for each event loop on which a client is used, made when it is first needed there.

    So a client may be made before there is a loop, and serve one `asyncio.run` after the other.
    """

    def __init__(self, make_link: Callable[[], AsyncLink], max_in_flight: int) -> None:
        self._make_link = make_link
        self._max_in_flight = max_in_flight
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}
        self._closed = False

    def here(self) -> Line:
        """That of the running loop.

        Raises:
            RuntimeError: No loop is running.
            ValueError: The client was closed.
        """
        if self._closed:
            raise ValueError("this AsyncClient is closed")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("an AsyncClient is used inside of a running event loop; Client needs none") from None
        if loop not in self._lines:
            self._lines = {other: line for other, line in self._lines.items() if not other.is_closed()}
            self._lines[loop] = Line(self._make_link(), self._max_in_flight)
        return self._lines[loop]

    async def close(self) -> None:
        """Ends the running loop's calls and waits for them; channels of other loops are closed without waiting."""
        self._closed = True
        line = self._lines.pop(asyncio.get_running_loop(), None)
        self._lines = {}  # a channel that nobody has any more closes itself
        if line is not None:
            await line.link.end()
