"""From chunks of a file to a stored picture that is known to be one."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from functools import partial

from cutout_server.images.early_decoding import EarlyDecoding
from cutout_server.images.receiving import receive
from cutout_server.images.store import ImageStore, StoredPicture, Upload
from cutout_server.images.to_the_end import to_the_end
from cutout_server.imaging.decode import ImageHeader, ImageLimits, probe


class Uploads:
    """Takes files in; only what its header shows to be a picture within the limits is kept."""

    def __init__(self, store: ImageStore, executor: Executor, limits: ImageLimits, arrivals: EarlyDecoding) -> None:
        self.store = store
        self._arrivals = arrivals
        self._executor = executor
        self._limits = limits

    async def receive(self, chunks: AsyncIterator[bytes], *, field: str, expected_sha256: str = "") -> StoredPicture:
        """Stores a picture of the current caller's as it arrives; see `receiving.receive`.

        Args:
            chunks: Its bytes.
            field: What violations call the bytes.
            expected_sha256: Hexadecimal digest to be met; empty for none.
        """
        return await receive(
            self.store,
            chunks,
            partial(self._look, field=field),
            max_bytes=self._limits.max_bytes,
            expected_sha256=expected_sha256,
            follow=self._arrivals.expect,
        )

    async def _look(self, upload: Upload, field: str) -> ImageHeader:
        looking = asyncio.get_running_loop().run_in_executor(self._executor, self._probe, upload, field)
        return await to_the_end(looking)  # Whoever leaves removes the file, which is no fault of the disk's.

    def _probe(self, upload: Upload, field: str) -> ImageHeader:
        with self.store.disk():
            content = upload.path.read_bytes()
        return probe(content, self._limits, field=field)
