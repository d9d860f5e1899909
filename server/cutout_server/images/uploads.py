"""From chunks of a file to a stored picture that is known to be one."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor

from cutout_server import call_context
from cutout_server.errors import InvalidRequestError
from cutout_server.images.early_decoding import EarlyDecoding
from cutout_server.images.store import ImageStore, StoredPicture, Upload
from cutout_server.imaging.decode import ImageHeader, ImageLimits, probe


class Uploads:
    """Takes files in; only what its header shows to be a picture within the limits is kept."""

    def __init__(self, store: ImageStore, executor: Executor, limits: ImageLimits, arrivals: EarlyDecoding) -> None:
        self.store = store
        self._arrivals = arrivals
        self._executor = executor
        self._limits = limits

    async def receive(
        self, chunks: AsyncIterator[bytes], owner: str, *, field: str, expected_sha256: str = ""
    ) -> StoredPicture:
        """Stores a file as it arrives; nothing is left of one that is refused.

        Args:
            chunks: Its bytes.
            owner: Who may use it.
            field: What violations call the bytes.
            expected_sha256: Hexadecimal digest to be met; empty for none.

        Raises:
            InvalidRequestError: It is not a picture that can be read, or not the one that was announced.
            TooLargeError: It outgrew the bound.
            QuotaError: It outgrew what is left of the caller's quotas.
            UnavailableError: It cannot be kept at the moment.
        """
        upload = await self.store.receive(
            chunks, call_context.current().account, self._limits.max_bytes, self._arrivals.expect
        )
        try:
            if expected_sha256 and expected_sha256.lower() != upload.sha256:
                raise InvalidRequestError.of(
                    "expected_sha256",
                    f"expected {expected_sha256.lower()}, the bytes that arrived have {upload.sha256}",
                )
            loop = asyncio.get_running_loop()
            header = await loop.run_in_executor(self._executor, self._probe, upload, field)
            return self.store.keep(upload, owner, header, call_context.current().image_key)
        except BaseException:
            self._arrivals.forget(upload.path)
            self.store.discard(upload)
            raise

    def _probe(self, upload: Upload, field: str) -> ImageHeader:
        with self.store.disk():
            content = upload.path.read_bytes()
        return probe(content, self._limits, field=field)
