"""Stored videos: taken in once a frame of them could be decoded, and read frame by frame, in processes of their own."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
from cutout_common.distribution import install_hint

from cutout_server import call_context
from cutout_server.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from cutout_server.images.decode_process import Work, Worker
from cutout_server.images.decoder_processes import Decoders
from cutout_server.images.receiving import receive
from cutout_server.images.store import ImageStore, StoredVideo, Upload
from cutout_server.imaging.video import VIDEO_TOO_COSTLY, VideoFrame, VideoHeader, VideoLimits, is_readable


class Videos:
    """Belongs to the event loop.

    Args:
        store: Where they are.
        decoders: For what is done at once: a look at a new file, one frame.
        readers: For what lasts, so that it never keeps the other waiting.
        limits: What a video may be at most.
        max_bytes: Bound on a file.
    """

    def __init__(
        self, store: ImageStore, decoders: Decoders, readers: Decoders, limits: VideoLimits, *, max_bytes: int
    ) -> None:
        self._store = store
        self._decoders = decoders
        self._readers = readers
        self._limits = limits
        self._max_bytes = max_bytes

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

    def held(self, video: StoredVideo) -> AbstractContextManager[None]:
        """Keeps a video's file, and the room that it takes, for the block, though it is deleted or expires in it."""
        return self._store.held(video)

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
            "frames": list(numbers),
            "later": list(later),
            "size": [header.height, header.width],
        }

        def begin(worker: Worker) -> None:
            with worker.working(work):
                if worker.ask(job).get("gone"):
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

        async def frames(worker: Worker) -> AsyncGenerator[VideoFrame]:
            while (frame := await decoders.run(following, worker)) is not None:
                yield frame

        async with decoders.worker() as worker:
            await decoders.run(begin, worker)
            async with aclosing(frames(worker)) as decoded:
                yield decoded


def _gone(video: StoredVideo) -> NotFoundError:
    return NotFoundError(f"no video {video.file_id!r}; upload it again", reason="VIDEO_NOT_FOUND")


def _check_readable() -> None:
    if not is_readable():
        raise FailedPreconditionError(
            f"this server reads no videos: they need PyAV ({install_hint('pyav')})", reason="PACKAGE_MISSING"
        )
