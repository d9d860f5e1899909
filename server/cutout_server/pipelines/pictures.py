"""From whatever a request calls its image to an upright picture."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

from cutout_server import calls
from cutout_server.errors import PermissionDeniedError
from cutout_server.imaging.decode import ImageLimits, OpenedFile, from_tensor, open_file
from cutout_server.imaging.fetch import FetchPolicy, fetch
from cutout_server.imaging.store import ImageStore
from cutout_server.pipelines.budget import PixelBudget
from cutout_server.types import FileImage, ImageSource, Picture, StoredImage, TensorImage, UriImage

T = TypeVar("T")

_KNOWN_FILES = 4096  # Whose pixels' digests are remembered: about 1 MB.


class PictureObserver(Protocol):
    """Hears of every picture; metrics hang here."""

    def decoded(self, pixels: int) -> None:
        """A picture of so many pixels was read."""


class Pictures:
    """Fetches, finds and decodes pictures, off the event loop and within a budget of pixels."""

    def __init__(
        self,
        store: ImageStore,
        executor: Executor,
        budget: PixelBudget,
        *,
        inline: ImageLimits,
        uploaded: ImageLimits,
        fetching: FetchPolicy | None,
        observer: PictureObserver,
    ) -> None:
        self._store = store
        self._executor = executor
        self._budget = budget
        self._inline = inline
        self._uploaded = uploaded
        self._fetching = fetching
        self._observer = observer
        self._digests: dict[bytes, str] = {}

    @asynccontextmanager
    async def open(self, source: ImageSource, *, for_session: bool = False) -> AsyncIterator[Picture]:
        """The upright RGB picture, for as long as the block lasts.

        Raises:
            InvalidRequestError: It cannot be read, or exceeds a limit.
            NotFoundError: No such stored image.
            OverloadedError: Sessions hold as many pixels as they may.
            PermissionDeniedError: URIs are off, or the address is not one to fetch from.
        """
        hold = self._budget.hold_for_session if for_session else self._budget.hold
        if isinstance(source, TensorImage):
            pixels = source.values.shape[0] * source.values.shape[1]
            read = partial(self._run, partial(from_tensor, source, self._inline, field="image.tensor"))
        else:
            with calls.stage("decode"):
                content, limits, field = await self._file(source)
                file = await self._run(partial(open_file, content, limits, field=field))
            pixels = file.header.width * file.header.height
            read = partial(self._decode, file, content)
        async with AsyncExitStack() as stack:
            with calls.stage("queue"):
                await stack.enter_async_context(hold(pixels))
            with calls.stage("decode"):
                picture = await read()
            self._observer.decoded(picture.height * picture.width)
            yield picture

    async def pin(self, source: UriImage) -> FileImage:
        """What is at an address now.

        Raises:
            PermissionDeniedError: URIs are off, or the address is not one to fetch from.
            InvalidRequestError: It cannot be fetched.
        """
        with calls.stage("decode"):
            content, _, field = await self._file(source)
        return FileImage(content, field)

    def identity(self, source: FileImage | StoredImage | TensorImage) -> tuple[object, ...]:
        """What a picture is, before any of it is decoded: values of equal content for equal pictures alone.

        Raises:
            NotFoundError: No such stored image.
        """
        match source:
            case FileImage(content, field):
                return (field, content)
            case StoredImage(image_id):
                return ("image.image_id", self._store.find(image_id, calls.current().caller).sha256)
            case TensorImage(values):
                return ("image.tensor", values)

    async def _decode(self, file: OpenedFile, content: bytes) -> Picture:
        """Equal files have equal pixels, so that only the first of them needs its pixels' digest made."""
        key = await self._run(lambda: hashlib.sha256(content).digest())
        picture = await self._run(partial(file.read, self._digests.get(key, "")))
        self._digests[key] = picture.sha256
        if len(self._digests) > _KNOWN_FILES:
            del self._digests[next(iter(self._digests))]
        return picture

    async def _file(self, source: FileImage | StoredImage | UriImage) -> tuple[bytes, ImageLimits, str]:
        """A file's bytes, their limits, and what errors call them."""
        match source:
            case FileImage(content, field):
                return content, self._inline, field
            case StoredImage(image_id):
                stored = self._store.find(image_id, calls.current().caller)
                return await self._store.read(stored), self._uploaded, "image.image_id"
            case UriImage(uri):
                if self._fetching is None:
                    raise PermissionDeniedError("image.uri: this server does not fetch pictures; send `content`")
                return await fetch(uri, self._fetching), self._inline, "image.uri"

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
