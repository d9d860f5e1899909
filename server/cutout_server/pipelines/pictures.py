"""From whatever a request calls its image to an upright picture."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from cutout_server import calls
from cutout_server.errors import PermissionDeniedError
from cutout_server.imaging.decode import ImageLimits, decode, from_tensor
from cutout_server.imaging.fetch import FetchPolicy, fetch
from cutout_server.imaging.store import ImageStore
from cutout_server.types import FileImage, ImageSource, Picture, StoredImage, TensorImage, UriImage

T = TypeVar("T")


class PictureObserver(Protocol):
    """Hears of every picture; metrics hang here."""

    def decoded(self, pixels: int) -> None:
        """A picture of so many pixels was read."""


class Pictures:
    """Fetches, finds and decodes pictures, off the event loop."""

    def __init__(
        self,
        store: ImageStore,
        executor: Executor,
        *,
        inline: ImageLimits,
        uploaded: ImageLimits,
        fetching: FetchPolicy | None,
        observer: PictureObserver,
    ) -> None:
        self._store = store
        self._executor = executor
        self._inline = inline
        self._uploaded = uploaded
        self._fetching = fetching
        self._observer = observer

    async def load(self, source: ImageSource) -> Picture:
        """The upright RGB picture.

        Raises:
            InvalidRequestError: It cannot be read, or exceeds a limit.
            NotFoundError: No such stored image.
            PermissionDeniedError: URIs are off, or the address is not one to fetch from.
        """
        with calls.stage("decode"):
            match source:
                case FileImage(content):
                    picture = await self._run(lambda: decode(content, self._inline, field="image.content"))
                case TensorImage():
                    picture = await self._run(lambda: from_tensor(source, self._inline, field="image.tensor"))
                case StoredImage(image_id):
                    file = self._store.find(image_id, calls.current().caller)
                    content = await self._store.read(file)
                    picture = await self._run(lambda: decode(content, self._uploaded, field="image.image_id"))
                case UriImage(uri):
                    if self._fetching is None:
                        raise PermissionDeniedError("image.uri: this server does not fetch pictures; send `content`")
                    content = await fetch(uri, self._fetching)
                    picture = await self._run(lambda: decode(content, self._inline, field="image.uri"))
        self._observer.decoded(picture.height * picture.width)
        return picture

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
