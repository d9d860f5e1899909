"""The addresses of servers: one, several with commas between them, or all that a name has in DNS."""

import socket
import threading
import time

from cutout_common.address import host_and_port, parts

ALL_OF = "dns:///"
"""Before a name that stands for several servers, one at each of its addresses."""
# So soon is a server found that was added to a name.
LOOK_S = 5.0
_LOOKUP_S = 5.0


class Addresses:
    """What an address stands for, looked up again and again while somebody asks. Threads may share it."""

    def __init__(self, address: str) -> None:
        self._parts = parts(address)
        self._names = tuple(part for part in self._parts if part.startswith(ALL_OF))
        self._found: dict[str, tuple[str, ...]] = {}
        self._looking: threading.Thread | None = None
        self._looked = float("-inf")

    @property
    def are_many(self) -> bool:
        """Whether they can be those of several servers."""
        return len(self._parts) > 1 or bool(self._names)

    @property
    def are_known(self) -> bool:
        """Whether `now` answers at once."""
        return not self._names or bool(self._found)

    def host(self, address: str) -> str:
        """The name behind which an address was found, by which its server shows that it is the one; else empty."""
        for name, found in self._found.items():
            if address in found and (place := host_and_port(name)):
                return place[0]
        return ""

    def now(self) -> tuple[str, ...]:
        """Those that are known; waits for the first look-up alone."""
        if self._names and time.monotonic() > self._looked + LOOK_S:
            self._looked = time.monotonic()
            self._looking = threading.Thread(target=self._look, daemon=True)
            self._looking.start()
        if not self.are_known and self._looking is not None:
            self._looking.join(_LOOKUP_S)
        return tuple(each for part in self._parts for each in self._found.get(part) or (part,))

    def _look(self) -> None:
        for name in self._names:
            place = host_and_port(name)
            assert place is not None  # noqa: S101 - `parts` has checked it
            try:
                entries = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
            except OSError:
                continue  # those of before go on; gRPC itself says what is wrong with a name that never was
            found = sorted({str(entry[4][0]) for entry in entries})
            self._found[name] = tuple(f"[{ip}]:{place[1]}" if ":" in ip else f"{ip}:{place[1]}" for ip in found)
