"""`python line.py ONE OTHER FILE`: a cable between two network interfaces that it makes, as good as FILE says.

FILE has the seconds that a frame takes each way; `inf` is a cable that is cut, of which nobody is told. Where the
kernel has `tc netem` that does the same; not every one has.
"""

import asyncio
import fcntl
import math
import os
import struct
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path

# From linux/if_tun.h.
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME = 2**16  # Bytes, more than any has.
LOOK_S = 0.02


def interface(name: str) -> int:
    """A new one, whose frames are read and written by its file."""
    number = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(number, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return number


class Way:
    """Carries frames from one end to the other, in order, each as late as it is said when it comes."""

    def __init__(self, source: int, target: int) -> None:
        self.delay_s = 0.0
        self._source, self._target = source, target
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._loop.add_reader(source, self._carry)

    def _carry(self) -> None:
        frame = os.read(self._source, FRAME)
        if self.delay_s == 0 and not self._waiting:
            self._deliver(frame)
        elif math.isfinite(self.delay_s):
            self._waiting.append((self._loop.time() + self.delay_s, frame))
            if len(self._waiting) == 1:
                self._loop.call_at(self._waiting[0][0], self._arrive)

    def _arrive(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            self._deliver(self._waiting.popleft()[1])
        if self._waiting:
            self._loop.call_at(self._waiting[0][0], self._arrive)

    def _deliver(self, frame: bytes) -> None:
        with suppress(OSError):  # The other end is down or has no room: the frame is lost, as frames are.
            os.write(self._target, frame)


async def main(one: str, other: str, file: Path) -> None:
    """Carries for ever."""
    ends = [interface(one), interface(other)]
    ways = [Way(*ends), Way(*reversed(ends))]
    while True:
        text = file.read_text()  # noqa: ASYNC240 - of a few bytes
        for way in ways:
            way.delay_s = float(text or way.delay_s)  # Empty while it is being written.
        await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
