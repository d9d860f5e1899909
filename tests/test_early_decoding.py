"""Pictures decoded while they arrive: the same pixels, and nobody loses anything by it."""

import asyncio
import hashlib
import io
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from conftest import Stubs, run_server
from cutout.v1 import image_service_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_server.images import early_decoding as arrivals_module
from cutout_server.images.early_decoding import Arrival, EarlyDecoding
from cutout_server.images.early_header import ArrivingPicture, look_at
from cutout_server.images.growing_file import GrowingFile
from cutout_server.images.pixel_budget import PixelBudget
from cutout_server.imaging.decode import ImageLimits, OpenedFile, decode
from cutout_server.imaging.structure import MAX_PNG_CHUNKS
from PIL import Image, ImageOps
from waiting import PATIENCE_S, until, wait_until

PHOTO = skimage.data.astronaut()[:301, :203]
PIXELS = PHOTO.shape[0] * PHOTO.shape[1]
LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=2_000_000)


def saved(file_format: str, pixels: np.ndarray = PHOTO, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


ARRIVING = {
    "plain": saved("PNG"),
    "with metadata": saved("PNG", exif=Image.Exif(), icc_profile=b"y" * 200_000, dpi=(72, 72)),
    "with text behind": saved("PNG")[:-12] + png_chunk(b"tEXt", b"a\0b") + png_chunk(b"IEND", b""),
}
ORDINARY = {
    "grey": saved("PNG", PHOTO[..., 0]),
    "with alpha": saved("PNG", np.dstack([PHOTO, PHOTO[..., :1]])),
    "with a transparent colour": saved("PNG", transparency=(1, 2, 3)),
    "animated": saved("PNG", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])]),
    "16-bit": saved("PNG", PHOTO[..., 0].astype(np.uint16) * 257),
    "jpeg": saved("JPEG"),
    "webp": saved("WEBP"),
    "tiff": saved("TIFF"),
    "nothing but chunks": saved("PNG")[:33] + png_chunk(b"tEXt", b"") * (MAX_PNG_CHUNKS + 1),
    "a header alone": saved("PNG")[:20],
    "nothing": b"",
}


@pytest.mark.parametrize("name", ARRIVING)
def test_the_same_pixels(name: str):
    """As the whole file gives."""
    picture = look_at(io.BytesIO(ARRIVING[name]))
    assert picture is not None
    assert (picture.width, picture.height) == (203, 301)
    stored = picture.decode()
    assert stored is not None
    assert stored.flags.writeable
    assert np.array_equal(stored, decode(ARRIVING[name], LIMITS).pixels)


@pytest.mark.parametrize("name", ORDINARY)
def test_other_files_are_left_alone(name: str):
    """Soon: no more of a file is looked at than of a usual one."""
    assert look_at(io.BytesIO(ORDINARY[name])) is None


def test_damaged_files_come_to_nothing():
    """Cut short, or with a byte changed."""
    content = ARRIVING["plain"]
    cut = look_at(io.BytesIO(content[: len(content) // 2]))
    assert cut is not None
    assert cut.decode() is None
    for at in range(len(content) // 3, len(content) - 20, len(content) // 9):
        spoilt = content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]
        picture = look_at(io.BytesIO(spoilt))
        assert picture is not None
        assert picture.decode() is None


def test_reading_waits_for_writing(tmp_path: Path):
    """What is there is read at once, the rest when it has come, and the end is the end."""
    path = tmp_path / "file"
    with path.open("wb") as writer:
        growing = GrowingFile(path)
        file = io.BufferedReader(growing)
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.extend(iter(lambda: file.read(4), b"")))
        reader.start()
        for part, expected in ((b"abcdef", [b"abcd"]), (b"gh", [b"abcd", b"efgh"]), (b"i", [b"abcd", b"efgh"])):
            writer.write(part)
            writer.flush()
            growing.grow(writer.tell())
            wait_until(lambda expected=expected: got == expected)
        growing.end()
        reader.join(PATIENCE_S)
        assert got == [b"abcd", b"efgh", b"i"]
        with pytest.raises(OSError, match="growing"):
            file.seek(0, io.SEEK_END)
    file.close()


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, what was decoded is still there for the next request."""
    monkeypatch.setattr(arrivals_module, "KEPT_S", PATIENCE_S)


@pytest.fixture
async def arrivals() -> AsyncIterator[EarlyDecoding]:
    arrivals = EarlyDecoding(PixelBudget(3 * PIXELS, callers_share=1), LIMITS)
    yield arrivals
    await arrivals.close()


class Writer:
    """Writes a file piece by piece."""

    def __init__(self, arrivals: EarlyDecoding, path: Path) -> None:
        self.path = path
        self.arrival: Arrival = arrivals.expect(path)

    def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            with self.path.open("ab") as file:
                file.write(piece)
            self.arrival.grew(self.path.stat().st_size)


async def test_pixels_are_taken_once(arrivals: EarlyDecoding, tmp_path: Path):
    """They are there when the last byte is, for the first who asks."""
    content = ARRIVING["plain"]
    writer = Writer(arrivals, tmp_path / "picture")
    writer.write(content[:1000], content[1000:-1])
    taken = asyncio.create_task(arrivals.take(writer.path))
    await asyncio.sleep(0)
    writer.write(content[-1:])
    writer.arrival.ended()
    stored = await taken
    assert stored is not None
    assert np.array_equal(stored, decode(content, LIMITS).pixels)
    assert await arrivals.take(writer.path) is None
    assert await arrivals.take(tmp_path / "another") is None


async def test_a_file_of_one_piece_is_left_to_others(arrivals: EarlyDecoding, tmp_path: Path):
    """It is whole when it comes."""
    writer = Writer(arrivals, tmp_path / "picture")
    writer.write(ARRIVING["plain"])
    writer.arrival.ended()
    assert await arrivals.take(writer.path) is None


async def test_what_fails_keeps_nobody_waiting(
    arrivals: EarlyDecoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A request that waits for a file's pixels gets none when there is no memory for them."""

    def without_memory(_: ArrivingPicture) -> None:
        raise MemoryError

    monkeypatch.setattr(ArrivingPicture, "decode", without_memory)
    writer = Writer(arrivals, tmp_path / "picture")
    writer.write(ARRIVING["plain"][:10], ARRIVING["plain"][10:20])
    taken = asyncio.create_task(arrivals.take(writer.path))
    await asyncio.sleep(0)
    writer.write(ARRIVING["plain"][20:])
    writer.arrival.ended()
    assert await asyncio.wait_for(taken, PATIENCE_S) is None


async def test_slow_callers_take_no_more_than_their_threads(arrivals: EarlyDecoding, tmp_path: Path):
    """While two are slow a third is not decoded as it arrives; when one of them has left, a fourth is."""
    content = ARRIVING["plain"]
    slow = [Writer(arrivals, tmp_path / name) for name in "ab"]
    for writer in slow:
        writer.write(content[:100], content[100:200])
    third, fourth = (Writer(arrivals, tmp_path / name) for name in "cd")
    third.write(content[:100], content[100:])
    third.arrival.ended()
    assert await arrivals.take(third.path) is None
    slow[0].arrival.abandon()
    assert await arrivals.take(slow[0].path) is None
    fourth.write(content[:100], content[100:])
    fourth.arrival.ended()
    assert await arrivals.take(fourth.path) is not None


async def test_requests_come_first(tmp_path: Path):
    """Pixels that nobody has taken leave when a request needs their room, and none are made where there is none."""
    budget = PixelBudget(PIXELS, callers_share=1)
    arrivals = EarlyDecoding(budget, LIMITS)
    content = ARRIVING["plain"]
    kept, late = Writer(arrivals, tmp_path / "kept"), Writer(arrivals, tmp_path / "late")
    kept.write(content[:100], content[100:])
    kept.arrival.ended()
    await asyncio.wait_for(kept.arrival.decoded, PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S), budget.hold(PIXELS):
        assert await arrivals.take(kept.path) is None
        late.write(content[:100], content[100:])
        late.arrival.ended()
        assert await arrivals.take(late.path) is None
    slow = Writer(arrivals, tmp_path / "slow")
    slow.write(content[:100], content[100:1000])
    await until(lambda: budget.in_use == PIXELS)
    async with asyncio.timeout(PATIENCE_S), budget.hold(PIXELS):
        pass
    await arrivals.close()


async def test_pixels_are_not_kept_for_long(arrivals: EarlyDecoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An upload that nobody uses holds nothing in the end; neither does one that is too large."""
    monkeypatch.setattr(arrivals_module, "KEPT_S", 0.01)
    content = ARRIVING["plain"]
    writer = Writer(arrivals, tmp_path / "picture")
    writer.write(content[:100], content[100:])
    assert await asyncio.wait_for(writer.arrival.decoded, PATIENCE_S) is not None
    await until(lambda: not arrivals._arrivals)
    assert await arrivals.take(writer.path) is None
    small = EarlyDecoding(
        PixelBudget(3 * PIXELS, callers_share=1), ImageLimits(max_bytes=8 << 20, max_pixels=PIXELS - 1)
    )
    large = Writer(small, tmp_path / "large")
    large.write(content[:100], content[100:])
    assert await asyncio.wait_for(large.arrival.decoded, PATIENCE_S) is None
    await small.close()


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each picture that was read, whether it was decoded before."""
    stored: list[bool] = []
    read = OpenedFile.read

    def noted(file: OpenedFile, pixels: np.ndarray | None = None) -> np.ndarray:
        stored.append(pixels is not None)
        return read(file, pixels)

    monkeypatch.setattr(OpenedFile, "read", noted)
    return stored


def chunks(content: bytes) -> Iterator[bytes]:
    size = len(content) // 5 + 1
    for start in range(0, len(content), size):
        yield content[start : start + size]


def test_uploads_and_sessions(stored: list[bool]):
    """Turned pictures, too, have the same answer as those that come whole, and their second use is the ordinary one."""
    turned = Image.Exif()
    turned[0x0112] = 6
    content = saved("PNG", exif=turned)
    box = mask_pb2.Box(x_min=20, y_min=30, x_max=200, y_max=180)
    with run_server() as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        whole = stubs.segmentation.SegmentByBox(pb2.SegmentByBoxRequest(image={"content": content}, boxes=[box]))
        assert stored == [False]
        messages = (image_service_pb2.UploadImageRequest(chunk={"data": part}) for part in chunks(content))
        upload = stubs.images.UploadImage(messages)
        assert upload.sha256 == hashlib.sha256(content).hexdigest()
        request = pb2.SegmentByBoxRequest(image={"image_id": upload.image_id}, boxes=[box])
        request.options.overlay = 2
        for _ in range(2):
            answer = stubs.segmentation.SegmentByBox(request).segmentation
            assert answer.image == whole.segmentation.image
            assert answer.objects == whole.segmentation.objects
        assert stored == [False, True, False]

        def session() -> Iterator[pb2.SegmentSessionRequest]:
            yield pb2.SegmentSessionRequest(open={})
            for part in chunks(content):
                yield pb2.SegmentSessionRequest(image_chunk={"data": part})
            yield pb2.SegmentSessionRequest(image_chunk={"last": True})
            yield pb2.SegmentSessionRequest(box={"boxes": [box]})

        opened, answered = stubs.segmentation.SegmentSession(session())
        assert opened.opened.image == whole.segmentation.image
        assert answered.segmentation.objects == whole.segmentation.objects
        assert stored == [False, True, False, True]
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(content))).size == (301, 203)
