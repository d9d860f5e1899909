"""Uploaded pictures and videos: files in a private folder, bounded in bytes, number and age."""

import asyncio
import contextlib
import hashlib
import io
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import structlog
from cutout_common import routing
from cutout_common.disks import is_full

from cutout_server.callers.accounts import Account
from cutout_server.errors import NotFoundError, QuotaError, TooLargeError, UnavailableError
from cutout_server.images.private_folder import PrivateFolder
from cutout_server.images.sharing import Bound
from cutout_server.images.to_the_end import to_the_end
from cutout_server.imaging.decode import ImageHeader
from cutout_server.imaging.video import VideoHeader

log = structlog.get_logger()

H = TypeVar("H", bound=ImageHeader | VideoHeader)
H_co = TypeVar("H_co", bound=ImageHeader | VideoHeader, covariant=True)

READ_BYTES = 512 * 1024
# The folder is looked at so often; a caller is told to come back as soon.
LOOK_S = 5.0


class Follower(Protocol):
    """Hears of a file that is written."""

    def grew(self, size_bytes: int) -> None:
        """So many bytes are there."""

    def ended(self) -> None:
        """All of them are there."""

    def abandon(self) -> None:
        """The file leaves."""


class _Nobody:
    """Hears of nothing."""

    def grew(self, size_bytes: int) -> None:
        pass

    def ended(self) -> None:
        pass

    def abandon(self) -> None:
        pass


@dataclass(frozen=True)
class Upload:
    """A file that has arrived and whose header was not looked at yet."""

    path: Path
    size_bytes: int
    sha256: str
    account: Account
    began_s: float
    follower: Follower


@dataclass(frozen=True)
class StoredFile(Generic[H_co]):
    """A stored picture or video.

    Attributes:
        file_id: Unguessable; says what it is, which server has it, and under which key it came.
        owner: The caller that uploaded it; nobody else finds it.
        account: To which it counts.
        path: Where its bytes are.
        size_bytes: How many.
        sha256: Hexadecimal digest of the bytes.
        header: What the file's header says.
        used_s: Last use, on the clock of time.monotonic.
        ttl_s: Unused for so long, it is forgotten.
    """

    file_id: str
    owner: str
    account: Account
    path: Path
    size_bytes: int
    sha256: str
    header: H_co
    used_s: float
    ttl_s: float

    def expires_at_s(self) -> float:
        """When it is forgotten unless it is used before, in seconds since the epoch."""
        return time.time() + self.used_s + self.ttl_s - time.monotonic()


StoredPicture = StoredFile[ImageHeader]
StoredVideo = StoredFile[VideoHeader]


class ImageStore:
    """Files that were not used for longest leave first, of whoever has most. What still arrives takes room, too.

    Belongs to the event loop; files are touched in threads.

    Attributes:
        server: The name by which ids say that this store has them.
        max_bytes: Bound on all files together.
        bytes: What they have now.
        arriving_bytes: What has arrived of those that are not whole.
        is_available: Whether files can be written, as far as is known.
    """

    def __init__(self, folder: PrivateFolder, *, max_bytes: int, max_images: int, ttl_s: float) -> None:
        self.server = routing.new_server()
        self.max_bytes = max_bytes
        self._bytes = Bound("stored_bytes", max_bytes, lambda account: account.stored_bytes + account.arriving_bytes)
        self._images = Bound("stored_images", max_images, lambda account: account.stored_images)
        self._ttl_s = ttl_s
        self._folder = folder
        self._files: OrderedDict[str, StoredFile[ImageHeader | VideoHeader]] = OrderedDict()
        self._leaving: dict[str, StoredFile[ImageHeader | VideoHeader]] = {}  # Forgotten, and read still: they count.
        self._holders: Counter[str] = Counter()
        self._wake: Callable[[], object] = lambda: None
        self._missed_bytes = 0
        self.bytes = 0
        self.arriving_bytes = 0
        self.is_available = True

    def __len__(self) -> int:
        return len(self._files)

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        account: Account,
        max_bytes: int,
        follow: Callable[[Path], Follower] | None = None,
    ) -> Upload:
        """Writes a file as it arrives. Whoever calls either keeps it or discards it.

        Args:
            chunks: Its bytes.
            account: To which it counts.
            max_bytes: How many there may be.
            follow: Gives whoever is to hear of what is written to a path.

        Raises:
            TooLargeError: It outgrew the bound; nothing is left of it.
            QuotaError: It outgrew what is left of the caller's quotas, or of its share; likewise.
            UnavailableError: It cannot be written.
        """
        began_s = account.begin_upload()
        size = 0
        try:
            digest = hashlib.sha256()
            with contextlib.ExitStack() as failed, contextlib.ExitStack() as opened:
                with self.disk():
                    path, file = await to_the_end(asyncio.to_thread(self._create, failed, opened))
                follower = follow(path) if follow else _Nobody()
                failed.callback(follower.abandon)
                async for chunk in chunks:
                    limit = min(max_bytes, self.max_bytes)
                    if size + len(chunk) > limit:
                        raise TooLargeError(f"an upload may have at most {limit} bytes", reason="UPLOAD_TOO_LARGE")
                    account.grow_upload(size + len(chunk), len(chunk), self.max_bytes // 2)
                    self.arriving_bytes += len(chunk)
                    size += len(chunk)
                    self._make_room(self._bytes, account, 0, lambda: self.bytes + self.arriving_bytes)
                    with self.disk(size):
                        await to_the_end(asyncio.to_thread(_append, file, digest, chunk))
                        follower.grew(size)
                failed.pop_all()
        except BaseException:
            self._arrived(account, size, began_s)
            raise
        follower.ended()
        return Upload(path, size, digest.hexdigest(), account, began_s, follower)

    def _create(self, failed: contextlib.ExitStack, opened: contextlib.ExitStack) -> tuple[Path, io.FileIO]:
        path, file = self._folder.create()
        failed.callback(path.unlink, missing_ok=True)
        opened.enter_context(file)
        return path, file

    def keep(self, upload: Upload, owner: str, header: H, key: str = "") -> StoredFile[H]:
        """Makes an upload findable; older files leave if it would not fit.

        Args:
            upload: What has arrived.
            owner: Who may use it.
            header: What its header says.
            key: What load balancers went by; its digest unless it is a key.

        Raises:
            QuotaError: The caller has most files of all, and none that could leave; the upload is there still.
        """
        self._expire()
        account, quotas = upload.account, upload.account.quotas
        self._make_room(self._images, account, 1, lambda: len(self._files))
        most_bytes, most_images = quotas.stored_bytes or self.max_bytes, quotas.stored_images or self._images.most
        while (use := account.stored_bytes + upload.size_bytes) > most_bytes or account.stored_images >= most_images:
            if (oldest := self._oldest_of(account)) is None:
                delay_s = account.upload_delay_s()
                raise QuotaError("stored_bytes", most_bytes, use=use, retry_after_s=delay_s)
            self.forget(oldest)
        self._arrived(account, upload.size_bytes, upload.began_s)
        kind = routing.VIDEO if isinstance(header, VideoHeader) else routing.IMAGE
        file_id = routing.new_id(kind, self.server, routing.usable_key(key, upload.sha256))
        file = StoredFile(
            file_id,
            owner,
            account,
            upload.path,
            upload.size_bytes,
            upload.sha256,
            header,
            time.monotonic(),
            self._ttl_s,
        )
        self._files[file_id] = file
        self._count(file, 1)
        return file

    def discard(self, upload: Upload) -> None:
        """Forgets an upload that is not kept."""
        upload.follower.abandon()
        upload.path.unlink(missing_ok=True)
        self._arrived(upload.account, upload.size_bytes, upload.began_s)

    def find(self, image_id: str, owner: str) -> StoredPicture:
        """A picture's file, used just now.

        Raises:
            NotFoundError: It never was, has expired, made room for others, is somebody else's, or is on another server.
        """
        return self._find(image_id, owner, ImageHeader, "image", reason="IMAGE_NOT_FOUND")

    def find_video(self, video_id: str, owner: str) -> StoredVideo:
        """A video's file; see `find`."""
        return self._find(video_id, owner, VideoHeader, "video", reason="VIDEO_NOT_FOUND")

    def _find(self, file_id: str, owner: str, header: type[H], what: str, reason: str) -> StoredFile[H]:
        self._expire()
        file = self._files.get(file_id)
        if file is None or file.owner != owner or not isinstance(file.header, header):
            raise self._absent(file_id, what, reason)
        file = self._files[file_id] = replace(file, used_s=time.monotonic())
        self._files.move_to_end(file_id)
        return cast("StoredFile[H]", file)

    def _absent(self, file_id: str, what: str, reason: str) -> NotFoundError:
        if routing.by_id(file_id).server in {"", self.server}:
            return NotFoundError(f"no {what} {file_id!r}; it may have expired: upload it again", reason=reason)
        error = NotFoundError(
            f"no {what} {file_id!r} on this server: another one stores it, or has been ended; upload it again",
            reason=routing.ELSEWHERE,
        )
        error.metadata = {routing.HOLDER: self.server}
        return error

    async def read(self, file: StoredPicture) -> bytes:
        """All of a file's bytes.

        Raises:
            NotFoundError: It made room for others a moment ago, or something removed it.
            UnavailableError: It cannot be read.
        """
        with self._there(file):
            return await asyncio.to_thread(file.path.read_bytes)

    async def chunks(self, file: StoredPicture) -> AsyncIterator[bytes]:
        """A file's bytes in pieces, as `read` has them; an open file outlives its deletion."""
        with self.held(file), contextlib.ExitStack() as opened:
            with self._there(file):
                handle = opened.enter_context(await asyncio.to_thread(file.path.open, "rb"))
            while True:
                with self.disk():
                    chunk = await asyncio.to_thread(handle.read, READ_BYTES)
                if not chunk:
                    return
                yield chunk

    def delete(self, image_id: str, owner: str) -> None:
        """Forgets a file.

        Raises:
            NotFoundError: See `find`.
        """
        self.forget(self.find(image_id, owner).file_id)

    @contextlib.contextmanager
    def disk(self, size_bytes: int = 0) -> Iterator[None]:
        """Around what touches files of this store, one of `size_bytes` perhaps; in any thread.

        Raises:
            UnavailableError: The disk is full, the folder was removed, or anything else that is no caller's fault.
        """
        try:
            yield
        except OSError as error:
            self._missed_bytes = max(self._missed_bytes, size_bytes)
            if self.is_available:
                log.error("uploads cannot be kept", folder=str(self._folder.path), error=str(error))  # noqa: TRY400
            self.is_available = False
            self._wake()
            message = f"the server cannot keep pictures at the moment: {_cause(error)}"
            raise UnavailableError(message, retry_after_s=LOOK_S, reason="IMAGE_STORE_UNAVAILABLE") from error

    @contextlib.contextmanager
    def _there(self, file: StoredPicture) -> Iterator[None]:
        with self.disk():
            try:
                yield
            except FileNotFoundError:
                message = f"no image {file.file_id!r}; upload it again"
                raise NotFoundError(message, reason="IMAGE_NOT_FOUND") from None

    async def watch(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Forgets files as they expire and looks after the folder, until it is cancelled.

        Args:
            changed: Called whenever `is_available` is another than before.
        """
        was_available, failed = True, asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, failed.set)
        while True:
            self._expire()
            await self._look_after_folder()
            if self.is_available != was_available:
                was_available = self.is_available
                await changed()
            failed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(failed.wait(), self._seconds_to_next_look())

    async def _look_after_folder(self) -> None:
        if not await asyncio.to_thread(self._folder.is_there):
            log.error("uploads are lost, as their folder was removed", folder=str(self._folder.path))
            self._forget_all()
        elif self.is_available:
            return
        has_room = await asyncio.to_thread(self._folder.has_room, self._missed_bytes)
        if has_room and not self.is_available:
            log.info("uploads can be kept again", folder=str(self._folder.path))
            self._missed_bytes = 0
        self.is_available = has_room

    def _seconds_to_next_look(self) -> float:
        oldest = next(iter(self._files.values()), None)
        if oldest is None:
            return LOOK_S
        return min(LOOK_S, max(0.0, oldest.used_s + oldest.ttl_s - time.monotonic()))

    def close(self) -> None:
        """Removes the folder."""
        self._forget_all()
        self._folder.remove()

    def _expire(self) -> None:
        horizon = time.monotonic() - self._ttl_s
        while self._files and next(iter(self._files.values())).used_s <= horizon:
            self.forget(next(iter(self._files)))

    def forget(self, file_id: str) -> None:
        """Removes a file if it is there still; one that is read then is not found any more, and leaves at the end."""
        file = self._files.pop(file_id, None)
        if file is not None:
            self._leaving[file_id] = file
            self._let_leave(file_id)

    @contextlib.contextmanager
    def held(self, file: StoredFile[ImageHeader | VideoHeader]) -> Iterator[None]:
        """Keeps a file where it is for the block. If it is forgotten, it counts, and takes its room, until the end."""
        self._holders[file.file_id] += 1
        try:
            yield
        finally:
            self._holders[file.file_id] -= 1
            self._holders += Counter()  # Forgets those without any.
            self._let_leave(file.file_id)

    def _let_leave(self, file_id: str) -> None:
        """Removes a forgotten file that nobody reads."""
        if file_id in self._leaving and not self._holders[file_id]:
            file = self._leaving.pop(file_id)
            self._count(file, -1)
            file.path.unlink(missing_ok=True)

    def _make_room(self, bound: Bound, account: Account, amount: int, in_use: Callable[[], int]) -> None:
        """Forgets files until so much more of something fits in.

        Files that are read give no room. Where others' do not, whoever has less than a share may have it beside them,
        so that there is at most twice as much as the bound allows.
        """
        while in_use() + amount > bound.most:
            kept = (*self._files.values(), *self._leaving.values())
            free = [file for file in self._files.values() if not self._holders[file.file_id]]
            try:
                giver = bound.giver(account, amount, {file.account for file in free})
            except QuotaError:
                are_read = any(self._holders[file.file_id] and file.account is not account for file in kept)
                share = bound.most // len({account, *(file.account for file in kept)})
                if are_read and bound.of(account) + amount <= share:
                    return
                raise
            self.forget(next(file.file_id for file in free if file.account is giver))

    def _oldest_of(self, account: Account) -> str | None:
        """The file of a caller that was not used for longest, of those that nobody reads."""
        files = self._files.items()
        return next((id_ for id_, file in files if file.account is account and not self._holders[id_]), None)

    def _arrived(self, account: Account, size_bytes: int, began_s: float) -> None:
        """So much does not arrive any more."""
        account.end_upload(size_bytes, began_s)
        self.arriving_bytes -= size_bytes

    def _count(self, file: StoredFile[ImageHeader | VideoHeader], sign: int) -> None:
        self.bytes += sign * file.size_bytes
        file.account.stored_bytes += sign * file.size_bytes
        file.account.stored_images += sign

    def _forget_all(self) -> None:
        for file in (*self._files.values(), *self._leaving.values()):
            self._count(file, -1)
        self._files.clear()
        self._leaving.clear()


def _append(file: io.FileIO, digest: "hashlib._Hash", chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
    digest.update(chunk)


def _cause(error: OSError) -> str:
    """For callers, whom the server's paths do not concern."""
    if is_full(error):
        return "its disk is full"
    return "their folder was removed" if isinstance(error, FileNotFoundError) else "its disk failed"
