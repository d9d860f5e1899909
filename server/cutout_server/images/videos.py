"""Stored videos: taken in once a frame of them could be decoded, and read frame by frame, in processes of their own."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
from cutout_common.distribution import install_hint

from cutout_server import call_context
from cutout_server.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from cutout_server.images.decode_process import Work, Worker
from cutout_server.images.decoder_processes import Decoders, Lease
from cutout_server.images.receiving import receive
from cutout_server.images.store import ImageStore, StoredVideo, Upload
from cutout_server.imaging.video import VIDEO_TOO_COSTLY, VideoFrame, VideoHeader, VideoLimits, is_readable
from cutout_server.pools.admission import Admission, Who

_LOOK_S = 0.5  # How often whoever has had its time looks whether others wait.


class Videos:
    """Belongs to the event loop.

    Args:
        store: Where they are.
        decoders: For what is done at once: a look at a new file, one frame.
        readers: For what lasts, so that it never keeps the other waiting.
        limits: What a video may be at most.
        max_bytes: Bound on a file.
        followed: How many may be read, or wait to be, at once.
        turn_s: For so long a process reads one while others wait.
    """

    def __init__(
        self,
        store: ImageStore,
        decoders: Decoders,
        readers: Decoders,
        limits: VideoLimits,
        *,
        max_bytes: int,
        followed: int = 1,
        turn_s: float = 0.0,
    ) -> None:
        self._store = store
        self._decoders = decoders
        self._readers = readers
        self._limits = limits
        self._max_bytes = max_bytes
        self._turn_s = turn_s
        self._admission = Admission("the reading of videos", followed, quota="video_processes")

    async def receive(self, chunks: AsyncIterator[bytes], *, field: str, expected_sha256: str = "") -> StoredVideo:
        """Stores a video of the current caller's as it arrives; see `receiving.receive`.

        Args:
            chunks: Its bytes.
            field: What violations call the bytes.
            expected_sha256: Hexadecimal digest to be met; empty for none.

        Raises:
            FailedPreconditionError: The server cannot read videos.
        """
        _check_readable()
        return await receive(
            self._store,
            chunks,
            partial(self._look, field=field),
            max_bytes=self._max_bytes,
            expected_sha256=expected_sha256,
        )

    def find(self, video_id: str) -> StoredVideo:
        """A video of the current caller's, used just now.

        Raises:
            NotFoundError: There is none of that id.
        """
        return self._store.find_video(video_id, call_context.current().caller)

    def delete(self, video_id: str) -> None:
        """Forgets a video of the current caller's; raises as `find` does."""
        self._store.forget(self.find(video_id).file_id)

    @contextmanager
    def held(self, video: StoredVideo) -> Iterator[None]:
        """A place among the videos that are read, for the block, whose file is kept though it is deleted or expires.

        Raises:
            OverloadedError: There is none.
            QuotaError: The caller has as many as one may have.
        """
        call, began_s = call_context.current(), time.monotonic()
        self._admission.admit(Who(call.party, call.peer))
        try:
            with self._store.held(video):
                yield
        finally:
            self._admission.leave(time.monotonic() - began_s, call.party)

    async def frame(self, video: StoredVideo, number: int, field: str) -> VideoFrame:
        """One frame.

        Raises:
            InvalidRequestError: It cannot be decoded.
            NotFoundError: The file is gone.
            UnavailableError: The process that decoded it died.
        """
        async with self._frames(self._decoders, video, [number], (), field) as frames:
            found = [frame async for frame in frames]  # To the end: the process can be asked by others then.
        if not found:
            raise InvalidRequestError.of(field, f"frame {number} cannot be decoded", reason="VIDEO_UNREADABLE")
        return found[0]

    @asynccontextmanager
    async def read(
        self, video: StoredVideo, numbers: Sequence[int], later: Sequence[int] = ()
    ) -> AsyncIterator[AsyncIterator[VideoFrame]]:
        """Frames in the order of their numbers, ascending or descending, each decoded when the one before is taken.

        Those that cannot be decoded are passed over. The file is open for the block: its deletion changes nothing.

        Args:
            video: Which.
            numbers: Of the frames.
            later: Those that are to be read behind these; whether they can be is said at once.

        Raises:
            InvalidRequestError: Going back through so many frames would take too long.
            NotFoundError: The file is gone.
            UnavailableError: The process that decoded it died.
        """
        async with self._frames(self._readers, video, numbers, later, "video_id") as frames:
            yield frames

    async def _look(self, upload: Upload, field: str) -> VideoHeader:
        job = {"video": str(upload.path), "field": field, "limits": asdict(self._limits)}

        def describe(worker: Worker) -> VideoHeader:
            with worker.working(Work("video", field, self._decoders.seconds, reason=VIDEO_TOO_COSTLY)):
                header = VideoHeader(**worker.ask({**job, "seconds": self._decoders.seconds}))
                worker.is_ready = True
                return header

        async with self._decoders.worker() as worker:
            return await self._decoders.run(describe, worker)

    @asynccontextmanager
    async def _frames(
        self, decoders: Decoders, video: StoredVideo, numbers: Sequence[int], later: Sequence[int], field: str
    ) -> AsyncIterator[AsyncIterator[VideoFrame]]:
        _check_readable()
        header = video.header
        work = Work("video", field, decoders.seconds, reason=VIDEO_TOO_COSTLY)
        job = {
            "video": str(video.path),
            "field": field,
            "limits": asdict(self._limits),
            "seconds": decoders.seconds,
            "later": list(later),
            "size": [header.height, header.width],
        }

        def begin(worker: Worker, left: Sequence[int]) -> None:
            with worker.working(work):
                if worker.ask({**job, "frames": list(left)}).get("gone"):
                    raise _gone(video)

        def following(worker: Worker) -> VideoFrame | None:
            with worker.working(work):
                said = worker.line()
                if not said:
                    worker.is_ready = True
                    return None
                pixels = np.empty((header.height, header.width, 3), np.uint8)
                worker.read(pixels)
            return VideoFrame(int(said["number"]), float(said["seconds"]), pixels)

        with decoders.lease() as lease:
            reading = _Reading(decoders, lease, numbers, begin, following, self._turn_s)
            await reading.begin()
            with call_context.may_rest(reading):
                async with aclosing(reading.frames()) as decoded:
                    yield decoded


class _Reading:
    """Frames as a process gives them, which it gives back to those who wait for one, and goes on by another.

    It does so after a while, and while its caller takes in nothing. The next process decodes again from the keyframe on
    that is before the next frame.
    """

    def __init__(
        self,
        decoders: Decoders,
        lease: Lease,
        numbers: Sequence[int],
        begin: Callable[[Worker, Sequence[int]], None],
        following: Callable[[Worker], VideoFrame | None],
        turn_s: float,
    ) -> None:
        self._decoders = decoders
        self._lease = lease
        self._numbers = list(numbers)
        self._begin = begin
        self._following = following
        self._turn_s = turn_s
        self._done = 0
        self._is_asking = False
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self) -> Worker:
        """Has a process begin with the frames that are left."""
        worker = await self._lease.take()
        await self._decoders.run(self._begin, worker, self._numbers[self._done :])
        return worker

    async def frames(self) -> AsyncGenerator[VideoFrame]:
        """Each when it is asked for."""
        while self._lease.worker or self._done < len(self._numbers):
            self._is_asking = True
            worker = self._lease.worker or await self.begin()
            frame = await self._decoders.run(self._following, worker)
            self._is_asking = False
            if frame is None:
                return
            self._done = self._numbers.index(frame.number, self._done) + 1
            if self._done < len(self._numbers):
                self._be_fair()
            try:
                yield frame
            finally:
                if self._timer is not None:
                    self._timer.cancel()

    def _be_fair(self) -> None:
        """Gives the process back once its time is up and others wait, though the frame that it gave is worked on."""
        left_s = self._lease.since_s + self._turn_s - time.monotonic()
        if left_s > 0 or not self.rest():
            self._timer = asyncio.get_running_loop().call_later(max(left_s, _LOOK_S), self._be_fair)

    def rest(self) -> bool:
        """Gives the process back if others wait for one; says whether it is given back."""
        if self._decoders.is_wanted and not self._is_asking:
            self._lease.let_go()
        return self._lease.worker is None


def _gone(video: StoredVideo) -> NotFoundError:
    return NotFoundError(f"no video {video.file_id!r}; upload it again", reason="VIDEO_NOT_FOUND")


def _check_readable() -> None:
    if not is_readable():
        raise FailedPreconditionError(
            f"this server reads no videos: they need PyAV ({install_hint('pyav')})", reason="PACKAGE_MISSING"
        )
