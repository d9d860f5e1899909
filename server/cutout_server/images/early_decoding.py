"""Pictures decoded while their files arrive, so that the work does not begin with the last byte."""

import asyncio
import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cutout_server.images.early_header import look_at
from cutout_server.images.growing_file import GrowingFile
from cutout_server.images.pixel_budget import PixelBudget
from cutout_server.imaging.decode import ImageLimits
from cutout_server.types import RgbImage

AT_ONCE = 2  # Threads that may wait for slow callers; the files of others are decoded when they are whole.
KEPT_S = 30.0  # From an upload to the first request for it.


class Arrival:
    """One file on its way, as whoever writes it sees it.

    Attributes:
        file: The same for whoever decodes it, once that has begun.
        decoded: (H, W, 3) uint8 as stored; None if it came to nothing.
        is_over: Set when nobody wants it any more.
    """

    def __init__(self, arrivals: "EarlyDecoding", path: Path) -> None:
        self.file: GrowingFile | None = None
        self.decoded: asyncio.Future[RgbImage | None] = asyncio.get_running_loop().create_future()
        self.is_over = asyncio.Event()
        self._arrivals = arrivals
        self._path = path
        self._has_grown = False

    def grew(self, size_bytes: int) -> None:
        """So many bytes are there. Nothing is gained before the second piece: a file of one is whole already."""
        if self._has_grown and self.file is None and self._arrivals.have_room:
            self.file = GrowingFile(self._path)
            self._arrivals.begin(self._path, self, self.file)
        self._has_grown = True
        if self.file is not None:
            self.file.grow(size_bytes)

    def ended(self) -> None:
        """The file is whole."""
        if self.file is not None:
            self.file.end()

    def abandon(self) -> None:
        """The file, or what it shows, is of no use."""
        if self.file is not None:
            self.file.abandon()
        self.is_over.set()


class EarlyDecoding:
    """Keeps what was decoded until it is taken, for a short time; gives it up when a request needs the room.

    Its pixels count as pixels in hand. Belongs to the event loop.
    """

    def __init__(self, budget: PixelBudget, limits: ImageLimits) -> None:
        self._budget = budget
        self._limits = limits
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="arriving")
        self._arrivals: dict[Path, Arrival] = {}
        self._decoding = 0
        self._tasks: set[asyncio.Task[None]] = set()
        budget.on_short = self.give_way

    @property
    def have_room(self) -> bool:
        """Whether one more file can be decoded as it arrives."""
        return self._decoding < AT_ONCE

    def expect(self, path: Path) -> Arrival:
        """A file that is going to be written there."""
        return Arrival(self, path)

    def begin(self, path: Path, arrival: Arrival, file: GrowingFile) -> None:
        """Begins to decode."""
        self._arrivals[path] = arrival
        self._decoding += 1
        task = asyncio.create_task(self._keep(path, arrival, file))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take(self, path: Path) -> RgbImage | None:
        """What a whole file's pixels are, as stored; once, and only if they were decoded as it arrived."""
        arrival = self._arrivals.pop(path, None)
        if arrival is None:
            return None
        try:
            return await asyncio.shield(arrival.decoded)
        finally:
            arrival.is_over.set()

    def give_way(self) -> None:
        """Gives up all that nobody has taken."""
        for arrival in self._arrivals.values():
            arrival.abandon()

    async def close(self) -> None:
        """Ends what is under way."""
        self.give_way()
        await asyncio.gather(*self._tasks)
        self._threads.shutdown()

    async def _keep(self, path: Path, arrival: Arrival, file: GrowingFile) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._arrivals.pop, path, None)
            stored: RgbImage | None = None
            try:
                stored = await self._decoded(file, stack)
            finally:  # Whatever went wrong: whoever waits decodes the file itself.
                arrival.decoded.set_result(stored)
            if stored is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(arrival.is_over.wait(), KEPT_S)

    async def _decoded(self, file: GrowingFile, stack: contextlib.ExitStack) -> RgbImage | None:
        """The pixels, if there is room for them, which the stack holds."""
        loop = asyncio.get_running_loop()
        try:
            with io.BufferedReader(file) as reader:
                picture = await loop.run_in_executor(self._threads, look_at, reader)
                pixels = picture.width * picture.height if picture else 0
                if picture is None or not 0 < pixels <= self._limits.max_pixels:
                    return None
                if not stack.enter_context(self._budget.hold_if_free(pixels)):
                    return None
                return await loop.run_in_executor(self._threads, picture.decode)
        finally:
            self._decoding -= 1
