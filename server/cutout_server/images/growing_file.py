"""A file that one thread reads while another still writes it."""

import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class GrowingFile(io.RawIOBase):
    """Reading waits for what has not arrived yet. `grow`, `end` and `abandon` may be called from any thread.

    To be read through io.BufferedReader, which asks again until it has as much as it was asked for.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._changed = threading.Condition()
        self._size = 0
        self._is_whole = False
        self._is_abandoned = False

    def grow(self, size: int) -> None:
        """So many bytes are there now."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def end(self) -> None:
        """All of them are there."""
        with self._changed:
            self._is_whole = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Whoever reads need not go on."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True, but not from the end, which nobody knows."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves without waiting.

        Raises:
            OSError: From the end.
        """
        if whence == os.SEEK_END:
            raise OSError("the file is still growing")
        return self._file.seek(offset, whence)

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        """Takes what is there, and waits if nothing is.

        Raises:
            OSError: The file was abandoned.
        """
        at = self._file.tell()
        with self._changed:
            self._changed.wait_for(lambda: self._size > at or self._is_whole or self._is_abandoned)
            if self._is_abandoned:
                raise OSError("the file was abandoned")
        return self._file.readinto(buffer)

    def close(self) -> None:
        """Closes the file for reading."""
        self._file.close()
        super().close()
