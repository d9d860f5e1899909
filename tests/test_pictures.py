"""Pictures on their way from a request to the models."""

import asyncio
import hashlib
import io
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cutout_server import call_context
from cutout_server.images import pictures as pictures_module
from cutout_server.images.decoder import PictureDecoder
from cutout_server.images.decoder_processes import Decoders
from cutout_server.images.early_decoding import EarlyDecoding
from cutout_server.images.pictures import Pictures
from cutout_server.images.pixel_budget import PixelBudget
from cutout_server.images.private_folder import PrivateFolder
from cutout_server.images.store import ImageStore
from cutout_server.images.videos import Videos
from cutout_server.imaging import decode
from cutout_server.imaging.decode import ImageLimits, OpenedFile, digest, key
from cutout_server.imaging.video import VideoLimits
from cutout_server.types import FileImage, ImageSource, Picture, TensorImage
from PIL import Image
from waiting import PATIENCE_S, until

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=10_000)
VALUES = np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8)
SHA256 = hashlib.sha256(struct.pack("<II", 30, 40) + VALUES.tobytes()).hexdigest()


class Counting(ThreadPoolExecutor):
    """Counts its jobs."""

    jobs = 0

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs += 1
        return super().submit(work, *args, **kwargs)


class Observer:
    """Sums what was decoded."""

    pixels = 0

    def queue(self, where: str, waiting: Callable[[], int]) -> None:
        pass

    def decoded(self, pixels: int) -> None:
        self.pixels += pixels


class Digests:
    """The real digest, counted, and held back until `gate` is set."""

    def __init__(self) -> None:
        self.made = 0
        self.gate = threading.Event()

    def __call__(self, pixels: Any) -> str:
        assert self.gate.wait(PATIENCE_S)
        self.made += 1
        return digest(pixels)


@pytest.fixture
def executor() -> Iterator[Counting]:
    with Counting(2) as threads:
        yield threads


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> Digests:
    digests = Digests()
    monkeypatch.setattr(pictures_module, "digest", digests)
    return digests


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[OpenedFile]:
    """The files that were decoded."""
    reads: list[OpenedFile] = []
    read = OpenedFile.read
    monkeypatch.setattr(OpenedFile, "read", lambda file, *stored: reads.append(file) or read(file, *stored))
    return reads


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
async def pictures(executor: Counting, observer: Observer) -> AsyncIterator[Pictures]:
    """With room for one picture at a time."""
    store = ImageStore(PrivateFolder(None), max_bytes=1 << 20, max_images=1, ttl_s=60)
    limits = {"inline": LIMITS, "uploaded": LIMITS}
    budget = PixelBudget(30 * 40, callers_share=1)
    arrivals = EarlyDecoding(budget, LIMITS)
    decoders = Decoders(1, 30, observer)
    decoder = PictureDecoder(executor, decoders)
    videos = Videos(store, decoders, decoders, VideoLimits(1, 1, 1.0), max_bytes=1)
    yield Pictures(store, decoder, executor, budget, arrivals, videos, fetching=None, observer=observer, **limits)
    await arrivals.close()
    await decoders.close()
    store.close()


def file(file_format: str, values: Any = VALUES) -> FileImage:
    content = io.BytesIO()
    Image.fromarray(values).save(content, file_format)
    return FileImage(content.getvalue())


async def opened(pictures: Pictures, source: ImageSource) -> Picture:
    call_context.begin(call_context.Call("id", "caller", float("inf")))
    async with pictures.open(source) as picture:
        return picture


async def test_nothing_waits_for_a_digest_but_who_asks_for_it(pictures: Pictures, digests: Digests):
    """A picture is at hand before its digest is made, which is there for who asks, soon or late."""
    call_context.begin(call_context.Call("id", "caller", float("inf")))
    async with pictures.open(file("PNG")) as picture:
        assert np.array_equal(picture.pixels, VALUES)
        assert digests.made == 0
        early = asyncio.create_task(pictures.sha256(picture))
        left = asyncio.create_task(pictures.sha256(picture))
        await asyncio.sleep(0)
        left.cancel()  # Takes it from nobody else.
        digests.gate.set()
        assert await early == SHA256
    assert await pictures.sha256(picture) == SHA256
    assert digests.made == 1


async def test_room_is_not_given_back_while_pixels_are_read(pictures: Pictures, digests: Digests, observer: Observer):
    """Requests that fail at once leave no more pictures behind than there is room for."""
    first = asyncio.create_task(opened(pictures, file("PNG")))
    second = asyncio.create_task(opened(pictures, file("PNG", VALUES[::-1].copy())))
    await until(lambda: observer.pixels)
    done, _ = await asyncio.wait({first, second}, timeout=0.1)
    assert not done
    assert observer.pixels == 30 * 40
    digests.gate.set()
    await asyncio.gather(first, second)
    assert observer.pixels == 2 * 30 * 40


async def test_equal_pixels_are_digested_once(pictures: Pictures, digests: Digests):
    """Whatever they came in; other pixels have a digest of their own."""
    digests.gate.set()
    same = [await opened(pictures, source) for source in (file("PNG"), file("BMP"), TensorImage(VALUES))]
    assert [await pictures.sha256(picture) for picture in same] == [SHA256] * 3
    assert digests.made == 1
    turned = await opened(pictures, file("PNG", VALUES[::-1].copy()))
    assert await pictures.sha256(turned) == digest(VALUES[::-1])
    assert digests.made == 2


async def test_a_digest_that_was_forgotten_is_made_again(
    pictures: Pictures, digests: Digests, monkeypatch: pytest.MonkeyPatch
):
    """Only so many are remembered, and a session may outlive them."""
    monkeypatch.setattr(pictures_module, "_KNOWN", 1)
    digests.gate.set()
    first = await opened(pictures, file("PNG"))
    assert await pictures.sha256(first) == SHA256
    second = await opened(pictures, file("PNG", VALUES[:20]))
    assert await pictures.sha256(second) == digest(VALUES[:20])
    assert await pictures.sha256(first) == SHA256
    assert digests.made == 3


async def test_equal_files_have_their_key_made_once(
    pictures: Pictures, digests: Digests, monkeypatch: pytest.MonkeyPatch
):
    """Another file has its own made, though the pixels be the same."""
    made = []
    monkeypatch.setattr(decode, "key", lambda pixels: made.append(pixels.shape) or key(pixels))
    digests.gate.set()
    keys = {(await opened(pictures, source)).key for source in (file("PNG"), file("PNG"), file("BMP"), file("BMP"))}
    assert keys == {key(VALUES)}
    assert made == [(30, 40, 3)] * 2


async def test_a_file_is_read_in_two_jobs(pictures: Pictures, executor: Counting, digests: Digests):
    """Its header before there is room for its pixels, then these; the third job is the digest's."""
    digests.gate.set()
    picture = await opened(pictures, file("JPEG", VALUES))
    await pictures.sha256(picture)
    assert executor.jobs == 3
    assert (await opened(pictures, file("JPEG", VALUES))).key == picture.key
    assert executor.jobs == 5


async def test_a_picture_that_is_embedded_is_decoded_when_its_pixels_are_asked_for(
    pictures: Pictures, digests: Digests, reads: list[OpenedFile]
):
    """Not before, and only if its file came before; whoever asks gets the same pixels."""
    digests.gate.set()
    call_context.begin(call_context.Call("id", "caller", float("inf")))
    turned = Image.Exif()
    turned[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(VALUES).save(content, "PNG", exif=turned)
    source = FileImage(content.getvalue())
    async with pictures.open(source, embedded=lambda key: True) as first:
        assert len(reads) == 1
    async with pictures.open(source, embedded=lambda key: key != first.key):
        assert len(reads) == 2
    async with pictures.open(source, embedded=lambda key: key == first.key) as known:
        assert (known.height, known.width, known.key) == (40, 30, first.key)
        assert await pictures.sha256(known) == await pictures.sha256(first)
        assert len(reads) == 2
        assert np.array_equal(known.pixels, first.pixels)
        assert known.pixels is known.pixels
        assert len(reads) == 3


async def test_a_forgotten_digest_is_made_off_the_event_loop(
    pictures: Pictures, digests: Digests, monkeypatch: pytest.MonkeyPatch
):
    """With the pixels that it needs, when those of the picture were not decoded again."""
    digests.gate.set()
    threads = []
    read = OpenedFile.read
    monkeypatch.setattr(OpenedFile, "read", lambda file, *stored: threads.append(threading.get_ident()) or read(file))
    call_context.begin(call_context.Call("id", "caller", float("inf")))
    async with pictures.open(file("PNG")):
        pass
    async with pictures.open(file("PNG"), embedded=lambda key: True) as known:
        assert len(threads) == 1
        pictures._digests.clear()
        assert await pictures.sha256(known) == SHA256
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_frames_that_pass_leave_nothing(pictures: Pictures, digests: Digests):
    """Neither a digest nor a key is made or remembered of them, so that those of pictures stay."""
    digests.gate.set()
    call_context.begin(call_context.Call("id", "caller", float("inf")))
    async with pictures.open(file("PNG")):
        pass
    known = dict(pictures._keys), dict(pictures._digests)
    for kind in ("BMP", "TIFF"):
        async with pictures.open(file(kind), passes=True) as frame:
            assert frame.pixels.size
    assert digests.made == 1
    assert (pictures._keys, pictures._digests) == known


async def test_a_digest_that_failed_is_made_anew(pictures: Pictures, monkeypatch: pytest.MonkeyPatch):
    """Whoever asks hears of it once; the same picture that comes again is not refused for it."""
    fails = [MemoryError("for once")]

    def failing(pixels: Any) -> str:
        if fails:
            raise fails.pop()
        return digest(pixels)

    monkeypatch.setattr(pictures_module, "digest", failing)
    first = await opened(pictures, file("PNG"))
    assert not fails
    assert await pictures.sha256(first) == SHA256
    assert await pictures.sha256(await opened(pictures, file("PNG"))) == SHA256
