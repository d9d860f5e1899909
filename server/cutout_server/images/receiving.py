"""From chunks to a stored file that is known to be what it should be: pictures and videos come in the same way."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cutout_server import call_context
from cutout_server.errors import InvalidRequestError
from cutout_server.images.store import Follower, ImageStore, StoredFile, Upload
from cutout_server.imaging.decode import ImageHeader
from cutout_server.imaging.video import VideoHeader

H = TypeVar("H", bound=ImageHeader | VideoHeader)


async def receive(
    store: ImageStore,
    chunks: AsyncIterator[bytes],
    look: Callable[[Upload], Awaitable[H]],
    *,
    max_bytes: int,
    expected_sha256: str,
    follow: Callable[[Path], Follower] | None = None,
) -> StoredFile[H]:
    """Stores a file of the current caller's as it arrives; nothing is left of one that is refused.

    Args:
        store: Where.
        chunks: Its bytes.
        look: Gives what its header says, or refuses it.
        max_bytes: How many there may be.
        expected_sha256: Hexadecimal digest to be met; empty for none.
        follow: See `ImageStore.receive`.

    Raises:
        InvalidRequestError: It is not the file that was announced, or `look` refuses it.
        TooLargeError: It outgrew the bound.
        QuotaError: It outgrew what is left of the caller's quotas.
        UnavailableError: It cannot be kept, or looked at, at the moment.
    """
    call = call_context.current()
    upload = await store.receive(chunks, call.account, max_bytes, follow)
    try:
        if expected_sha256 and expected_sha256.lower() != upload.sha256:
            what = f"expected {expected_sha256.lower()}, the bytes that arrived have {upload.sha256}"
            raise InvalidRequestError.of("expected_sha256", what)
        return store.keep(upload, call.caller, await look(upload), call.image_key)
    except BaseException:
        store.discard(upload)
        raise
