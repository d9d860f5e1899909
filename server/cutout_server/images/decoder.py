"""Where an opened file is decoded: ordinary ones in a thread, what takes long in a process that can be killed."""

import asyncio
from concurrent.futures import Executor

from cutout_server.images.decoder_processes import Decoders
from cutout_server.imaging.decode import OpenedFile
from cutout_server.types import Picture, RgbImage

# Half a second to a second of a thread, which nothing can stop: ordinary JPEGs of any size, photographs in other
# formats. To send the pixels of what takes longer from a process to this one adds a few per cent to its time.
THREAD_WORK = 150_000_000


class PictureDecoder:
    """Decodes. Belongs to the event loop.

    Args:
        threads: For ordinary files; callers should have turns.
        processes: For those that take longer.
    """

    def __init__(self, threads: Executor, processes: Decoders) -> None:
        self.threads = threads
        self._processes = processes

    async def picture(self, file: OpenedFile, known_key: str = "", stored: RgbImage | None = None) -> Picture:
        """The decoded picture. In a process the work stops when nobody waits for it any more.

        Args:
            file: What to decode.
            known_key: Its key if it is known.
            stored: What it holds if it was decoded as it arrived.

        Raises:
            InvalidRequestError: The file is damaged, or takes longer than a picture may.
            UnavailableError: The process that decoded it died.
        """
        if stored is None and is_long(file):
            return await self._processes.decode(file, known_key)
        return await asyncio.get_running_loop().run_in_executor(self.threads, file.picture, known_key, stored)

    def later(self, file: OpenedFile, known_key: str) -> Picture:
        """The picture of a file that was decoded before: it is decoded anew when a thread asks for its pixels."""
        loop = asyncio.get_running_loop()

        def read() -> RgbImage:
            return asyncio.run_coroutine_threadsafe(self.picture(file, known_key), loop).result().pixels

        return Picture(file.header.height, file.header.width, known_key, read if is_long(file) else file.read)


def is_long(file: OpenedFile) -> bool:
    """Whether it goes to a process."""
    return file.work > THREAD_WORK


def room(file: OpenedFile) -> int:
    """Pixels in memory while it is decoded, in a process and here."""
    return file.room + is_long(file) * file.header.width * file.header.height
