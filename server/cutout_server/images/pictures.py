"""From whatever a request calls its image to an upright picture."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from blake3 import blake3

from cutout_server import call_context
from cutout_server.errors import InvalidRequestError, PermissionDeniedError
from cutout_server.images.decoder import PictureDecoder, room
from cutout_server.images.early_decoding import EarlyDecoding
from cutout_server.images.fetch import FetchPolicy, fetch
from cutout_server.images.pixel_budget import PixelBudget
from cutout_server.images.store import ImageStore, StoredVideo
from cutout_server.images.videos import Videos
from cutout_server.imaging.decode import ImageLimits, OpenedFile, digest, from_tensor, key, open_file
from cutout_server.types import FileImage, ImageSource, Picture, StoredFrame, StoredImage, TensorImage, UriImage

K = TypeVar("K")
T = TypeVar("T")

# Photographs take at most so many times as long as ordinary JPEGs; what takes longer counts for more pixels of a quota.
_ORDINARY = 10
_FRAME = "image.video_frame"
_KNOWN = 1024  # Files whose keys, and pictures whose digests are remembered: about 2 MB.


class PictureObserver(Protocol):
    """Hears of every picture; metrics hang here."""

    def decoded(self, pixels: int) -> None:
        """A picture of so many pixels was read."""


class Pictures:
    """Fetches, finds and decodes pictures, off the event loop and within a budget of pixels."""

    def __init__(
        self,
        store: ImageStore,
        decoder: PictureDecoder,
        encoding: Executor,
        budget: PixelBudget,
        arrivals: EarlyDecoding,
        videos: Videos,
        *,
        inline: ImageLimits,
        uploaded: ImageLimits,
        fetching: FetchPolicy | None,
        observer: PictureObserver,
    ) -> None:
        self._store = store
        self._decoder = decoder
        self._encoding = encoding
        self._budget = budget
        self._arrivals = arrivals
        self._videos = videos
        self._inline = inline
        self._uploaded = uploaded
        self._fetching = fetching
        self._observer = observer
        # By caller, so that times tell nobody which pictures others have sent.
        self._keys: dict[tuple[str, bytes], str] = {}
        self._digests: dict[tuple[str, str], Future[str]] = {}

    @asynccontextmanager
    async def open(
        self,
        source: ImageSource,
        *,
        for_session: bool = False,
        passes: bool = False,
        embedded: Callable[[str], bool] | None = None,
    ) -> AsyncIterator[Picture]:
        """The upright RGB picture, for as long as the block lasts.

        Args:
            source: Where it comes from.
            for_session: Count its pixels to what sessions may hold.
            passes: Whether it is a frame of a video, which comes once: nothing is made or remembered of it for the next
                time, at the cost of pictures that come again.
            embedded: Whether its embedding is at hand if it goes by this key, and is all that is needed: its pixels
                are then decoded only if somebody asks for them after all.

        Raises:
            InvalidRequestError: It cannot be read, or exceeds a limit.
            NotFoundError: No such stored image or video.
            OverloadedError: Sessions hold as many pixels as they may.
            QuotaError: The caller has had so many pixels read of late.
            PermissionDeniedError: URIs are off, or the address is not one to fetch from.
        """
        hold = self._budget.hold_for_session if for_session else self._budget.hold
        if isinstance(source, TensorImage):
            pixels = decoding = weight = source.values.shape[0] * source.values.shape[1]
            reading = partial(from_tensor, source, self._inline, field="image.tensor")
            read: Callable[[], Awaitable[Picture]] = partial(self._run, reading)
            known = False
        elif isinstance(source, StoredFrame):
            video = self._videos.find(source.video_id)
            if source.number >= video.header.frames:
                what = f"expected a frame below {video.header.frames}, got {source.number}"
                raise InvalidRequestError.of(f"{_FRAME}.frame", what)
            pixels = weight = video.header.width * video.header.height
            decoding = 2 * pixels  # In its process, and here.
            read = partial(self._frame, video, source.number)
            known = False
        else:
            with call_context.stage("decode"):
                found = await self._file(source)
                file, name = await self._run(partial(_open, found))
            pixels, decoding = file.header.width * file.header.height, room(file)
            weight = max(pixels, file.work // _ORDINARY)
            read = partial(self._read, file, name, found.path, embedded, passes=passes)
            known = bool(self._at_hand(name, embedded))
        if not known:
            call_context.current().account.read(weight)
        async with AsyncExitStack() as stack:
            with call_context.stage("queue"):
                held = await stack.enter_async_context(hold(pixels, decoding))
            with call_context.stage("decode"):
                picture = await read()
            held.shrink(pixels)
            if not passes:
                # Beside the model's work, which does not wait for it; but room that is read is not given back.
                stack.push_async_callback(_finished, self._digest(picture))
            self._observer.decoded(picture.height * picture.width)
            yield picture

    async def sha256(self, picture: Picture) -> str:
        """The digest of an opened picture's pixels; see `decode.digest`."""
        known = self._digest(picture)
        if known.done():
            return known.result()
        with call_context.stage("decode"):
            return await asyncio.shield(asyncio.wrap_future(known))

    async def pin(self, source: UriImage) -> FileImage:
        """What is at an address now.

        Raises:
            PermissionDeniedError: URIs are off, or the address is not one to fetch from.
            InvalidRequestError: It cannot be fetched.
        """
        with call_context.stage("decode"):
            found = await self._file(source)
        return FileImage(found.content, found.field)

    def identity(self, source: FileImage | StoredImage | StoredFrame | TensorImage) -> tuple[object, ...]:
        """What a picture is, before any of it is decoded: values of equal content for equal pictures alone.

        Raises:
            NotFoundError: No such stored image or video.
        """
        match source:
            case FileImage(content, field):
                return (field, content)
            case StoredImage(image_id):
                return ("image.image_id", self._store.find(image_id, call_context.current().caller).sha256)
            case StoredFrame(video_id, number):
                return (_FRAME, self._videos.find(video_id).sha256, number)
            case TensorImage(values):
                return ("image.tensor", values)

    async def _read(
        self,
        file: OpenedFile,
        name: bytes,
        path: Path | None,
        embedded: Callable[[str], bool] | None,
        *,
        passes: bool,
    ) -> Picture:
        """Equal files have equal pixels, so that only a caller's first of them needs its picture's key made."""
        if key := self._at_hand(name, embedded):
            return self._decoder.later(file, key)
        caller = call_context.current().caller
        key = self._keys.get((caller, name), "")
        stored = await self._arrivals.take(path) if path else None
        picture = await self._decoder.picture(file, key, stored)
        if not passes:
            _remember(self._keys, (caller, name), picture.key)
        return picture

    async def _frame(self, video: StoredVideo, number: int) -> Picture:
        pixels = (await self._videos.frame(video, number, f"{_FRAME}.frame")).pixels
        return await self._run(lambda: Picture.of(pixels, key(pixels)))

    def _at_hand(self, name: bytes, embedded: Callable[[str], bool] | None) -> str:
        """The key of a file's picture if its embedding is at hand and is all that is needed; empty otherwise."""
        caller = call_context.current().caller
        key = self._keys.get((caller, name), "")
        return key if embedded and (caller, key) in self._digests and embedded(key) else ""

    def _digest(self, picture: Picture) -> Future[str]:
        """Made once for equal pictures of a caller, beside the decoding of others: its answer waits for it."""
        whose = (call_context.current().caller, picture.key)
        known = self._digests.get(whose)
        if known is None or _failed(known):
            known = self._encoding.submit(lambda: digest(picture.pixels))  # Which may have to be decoded.
            _remember(self._digests, whose, known)
        return known

    async def _file(self, source: FileImage | StoredImage | UriImage) -> "_Found":
        match source:
            case FileImage(content, field):
                return _Found(content, self._inline, field)
            case StoredImage(image_id):
                stored = self._store.find(image_id, call_context.current().caller)
                return _Found(await self._store.read(stored), self._uploaded, "image.image_id", stored.path)
            case UriImage(uri):
                if self._fetching is None:
                    raise PermissionDeniedError("image.uri: this server does not fetch pictures; send the file itself")
                return _Found(await fetch(uri, self._fetching), self._inline, "image.uri")

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoder.threads, work)


class _Found(NamedTuple):
    """A file's bytes, what it may be at most, what errors call it, and where it is if it was uploaded."""

    content: bytes
    limits: ImageLimits
    field: str
    path: Path | None = None


def _open(found: _Found) -> tuple[OpenedFile, bytes]:
    return open_file(found.content, found.limits, field=found.field), blake3(found.content).digest()


def _failed(job: Future[str]) -> bool:
    """Whether it ended without a digest: whoever asks next has it made anew."""
    return job.done() and (job.cancelled() or job.exception() is not None)


async def _finished(job: Future[str]) -> None:
    if not job.done():
        await asyncio.wait({asyncio.wrap_future(job)})


def _remember(known: dict[K, T], key: K, value: T) -> None:
    known[key] = value
    if len(known) > _KNOWN:
        del known[next(iter(known))]
