"""Uploaded pictures: files in a private folder, bounded in bytes, number and age."""

import asyncio
import hashlib
import io
import secrets
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cutout_server.errors import NotFoundError, TooLargeError
from cutout_server.imaging.decode import ImageHeader

READ_BYTES = 512 * 1024


@dataclass(frozen=True)
class Upload:
    """A file that has arrived and whose header was not looked at yet."""

    path: Path
    size_bytes: int
    sha256: str


class Follower(Protocol):
    """Hears of a file that is written."""

    def grew(self, size_bytes: int) -> None:
        """So many bytes are there."""

    def ended(self) -> None:
        """All of them are there."""

    def abandon(self) -> None:
        """The file leaves."""


@dataclass(frozen=True)
class StoredFile:
    """A stored picture.

    Attributes:
        image_id: Unguessable.
        owner: The caller that uploaded it; nobody else finds it.
        path: Where its bytes are.
        size_bytes: How many.
        sha256: Hexadecimal digest of the bytes.
        header: What the file's header says.
        used_s: Last use, on the clock of time.monotonic.
        ttl_s: Unused for so long, it is forgotten.
    """

    image_id: str
    owner: str
    path: Path
    size_bytes: int
    sha256: str
    header: ImageHeader
    used_s: float
    ttl_s: float

    def expires_at_s(self) -> float:
        """When it is forgotten unless it is used before, in seconds since the epoch."""
        return time.time() + self.used_s + self.ttl_s - time.monotonic()


class ImageStore:
    """Least recently used files leave first. Belongs to the event loop; files are touched in threads."""

    def __init__(self, *, max_bytes: int, max_images: int, max_upload_bytes: int, ttl_s: float) -> None:
        self.max_bytes = max_bytes
        self._max_images = max_images
        self._max_upload_bytes = max_upload_bytes
        self._ttl_s = ttl_s
        self._folder = tempfile.TemporaryDirectory(prefix="cutout-images-")
        self._files: OrderedDict[str, StoredFile] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._files)

    async def receive(self, chunks: AsyncIterator[bytes], follow: Callable[[Path], Follower]) -> Upload:
        """Writes a file as it arrives. The caller either keeps it or discards it.

        Args:
            chunks: Its bytes.
            follow: Gives whoever is to hear of what is written to a path.

        Raises:
            TooLargeError: It outgrew the bound; nothing is left of it.
        """
        path = Path(self._folder.name) / secrets.token_urlsafe(16)
        follower = follow(path)
        digest = hashlib.sha256()
        size = 0
        try:
            with path.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > min(self._max_upload_bytes, self.max_bytes):
                        limit = min(self._max_upload_bytes, self.max_bytes)
                        raise TooLargeError(f"an upload may have at most {limit} bytes", reason="UPLOAD_TOO_LARGE")
                    await asyncio.to_thread(_append, file, digest, chunk)
                    follower.grew(size)
        except BaseException:
            follower.abandon()
            path.unlink(missing_ok=True)
            raise
        follower.ended()
        return Upload(path, size, digest.hexdigest())

    def keep(self, upload: Upload, owner: str, header: ImageHeader) -> StoredFile:
        """Makes an upload findable; older files leave if it would not fit."""
        self._expire()
        while self._files and (len(self) + 1 > self._max_images or self.bytes + upload.size_bytes > self.max_bytes):
            self.forget(next(iter(self._files)))
        image_id = f"img_{secrets.token_urlsafe(16)}"
        file = StoredFile(
            image_id, owner, upload.path, upload.size_bytes, upload.sha256, header, time.monotonic(), self._ttl_s
        )
        self._files[image_id] = file
        self.bytes += file.size_bytes
        return file

    @staticmethod
    def discard(upload: Upload) -> None:
        """Forgets an upload that is not kept."""
        upload.path.unlink(missing_ok=True)

    def find(self, image_id: str, owner: str) -> StoredFile:
        """The file, used just now.

        Raises:
            NotFoundError: It never was, has expired, made room for others, or is somebody else's.
        """
        self._expire()
        file = self._files.get(image_id)
        if file is None or file.owner != owner:
            raise NotFoundError(
                f"no image {image_id!r}; it may have expired: upload it again", reason="IMAGE_NOT_FOUND"
            )
        file = self._files[image_id] = replace(file, used_s=time.monotonic())
        self._files.move_to_end(image_id)
        return file

    async def read(self, file: StoredFile) -> bytes:
        """All of a file's bytes.

        Raises:
            NotFoundError: It made room for others a moment ago.
        """
        try:
            return await asyncio.to_thread(file.path.read_bytes)
        except FileNotFoundError:
            raise NotFoundError(f"no image {file.image_id!r}; upload it again", reason="IMAGE_NOT_FOUND") from None

    async def chunks(self, file: StoredFile) -> AsyncIterator[bytes]:
        """A file's bytes in pieces; an open file outlives its deletion."""
        try:
            handle = await asyncio.to_thread(file.path.open, "rb")
        except FileNotFoundError:
            raise NotFoundError(f"no image {file.image_id!r}; upload it again", reason="IMAGE_NOT_FOUND") from None
        with handle:
            while chunk := await asyncio.to_thread(handle.read, READ_BYTES):
                yield chunk

    def delete(self, image_id: str, owner: str) -> None:
        """Forgets a file.

        Raises:
            NotFoundError: See `find`.
        """
        self.forget(self.find(image_id, owner).image_id)

    def close(self) -> None:
        """Removes the folder."""
        self._files.clear()
        self.bytes = 0
        self._folder.cleanup()

    def _expire(self) -> None:
        horizon = time.monotonic() - self._ttl_s
        while self._files and next(iter(self._files.values())).used_s < horizon:
            self.forget(next(iter(self._files)))

    def forget(self, image_id: str) -> None:
        """Removes a file if it is there still."""
        file = self._files.pop(image_id, None)
        if file is not None:
            self.bytes -= file.size_bytes
            file.path.unlink(missing_ok=True)


def _append(file: io.BufferedWriter, digest: "hashlib._Hash", chunk: bytes) -> None:
    file.write(chunk)
    file.flush()  # Others read it.
    digest.update(chunk)
