"""What a picture costs is known from its header: files that take long are told from others before they are decoded."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import costs
from cutout_server.imaging.decode import ImageLimits, open_file
from PIL import Image
from slow_pictures import many_scans
from test_imaging_malformed import FILES, encode, tiff

LIMITS = ImageLimits(max_bytes=40 << 20, max_pixels=120_000_000)
SIDE = 500
PIXELS = SIDE * SIDE
FLAT = Image.new("RGB", (SIDE, SIDE), "teal")
NOISE = Image.fromarray(np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
DEEP = Image.fromarray(np.zeros((SIDE, SIDE), np.uint16))
RLE_HEADER = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 8, 1, 0, 1, 1, 0, 0)


def work(content: bytes) -> int:
    return open_file(content, LIMITS).work


def saved(image: Image.Image, file_format: str, **options: object) -> int:
    return work(encode(image, file_format, **options))


def rle(run: int) -> bytes:
    lines = (bytes([run, 1]) * (SIDE // run) + b"\0\0") * SIDE
    return b"BM" + bytes(8) + struct.pack("<I", 1078) + RLE_HEADER + bytes(1024) + lines


def tiff_of_jpeg(pieces: int, scans: int) -> int:
    """A TIFF whose every strip has so many scans."""
    content = encode(FLAT, "TIFF", compression="jpeg", tiffinfo={278: (SIDE // pieces + 7) // 8 * 8})
    return work(content + b"\xff\xda" * (scans * pieces))


def test_an_ordinary_picture_is_worth_its_pixels():
    """Of a JPEG of usual quality, on which the rest is measured; a little more when its file is large."""
    assert PIXELS <= saved(FLAT, "JPEG", quality=85) < 1.2 * PIXELS
    assert PIXELS < saved(NOISE, "JPEG", quality=85) < 4 * PIXELS


@pytest.mark.parametrize(
    ("dear", "cheap", "times"),
    [
        (lambda: work(many_scans(SIDE, 95)), lambda: work(many_scans(SIDE, 12)), 5),
        (lambda: saved(FLAT, "JPEG", progressive=True), lambda: saved(FLAT, "JPEG"), 3),
        (lambda: saved(FLAT, "PNG"), lambda: saved(FLAT, "JPEG"), 4),
        (lambda: saved(FLAT.convert("RGBA"), "PNG"), lambda: saved(FLAT.convert("L"), "PNG"), 3),
        (lambda: saved(DEEP, "PNG"), lambda: saved(FLAT.convert("L"), "PNG"), 1.9),
        (lambda: saved(NOISE, "WEBP", quality=95), lambda: saved(FLAT, "WEBP"), 2),
        (lambda: saved(NOISE, "AVIF", quality=90, speed=10), lambda: saved(FLAT, "AVIF", speed=10), 2),
        (lambda: saved(NOISE, "HEIF", quality=90), lambda: saved(FLAT, "HEIF"), 2),
        (lambda: saved(NOISE, "TIFF", compression="lzma"), lambda: saved(NOISE, "TIFF"), 3),
        (lambda: tiff_of_jpeg(1, 90), lambda: tiff_of_jpeg(1, 1), 3),
        (lambda: tiff_of_jpeg(32, 90), lambda: tiff_of_jpeg(32, 1), 3),
        (lambda: work(rle(1)), lambda: work(rle(250)), 5),
    ],
    ids=[
        "scans",
        "progressive",
        "PNG",
        "alpha",
        "depth",
        "WebP of noise",
        "AVIF of noise",
        "HEIF of noise",
        "LZMA",
        "scans in a TIFF",
        "scans in strips",
        "run lengths",
    ],
)
def test_what_takes_longer_counts_for_more(dear: Callable[[], int], cheap: Callable[[], int], times: float):
    """Scans, depth, alpha, noise that is hard to inflate, run lengths of one: at least so many times as much."""
    assert dear() > times * cheap()


def test_pieces_that_share_their_bytes_count_each():
    """A TIFF of four rows, whose strips are all the same bytes."""
    alone = tiff(_273=(4, 156), _279=(4, 172), _278=(1, 1)) + struct.pack("<8I", *(140,) * 4, *(4,) * 4)
    shared = alone[:-16] + struct.pack("<4I", *(100_000,) * 4) + bytes(100_000)
    assert work(shared) > work(alone) + 4 * 100_000


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "AVIF", "PNG", "TIFF"])
def test_frames_that_nobody_sees_cost_nothing(file_format: str):
    """But for their bytes: only the first of an animation or of several pages is decoded."""
    frames = [FLAT.rotate(90 * index) for index in range(1, 30)]
    many = saved(FLAT, file_format, save_all=True, append_images=frames)
    assert many < 1.5 * saved(FLAT, file_format) + 29 * PIXELS / 20


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_colour_profiles_cost_nothing(file_format: str):
    """But for their bytes: they are not looked at."""
    profile = bytes(500_000)
    assert saved(FLAT, file_format, icc_profile=profile) <= saved(FLAT, file_format) + 16 * len(profile)


def test_memory_is_known_as_well():
    """In pixels: a colour JPEG's own alone; coefficients, Pillow's copy and turning on top."""
    rooms = {name: open_file(FILES[name], LIMITS).room / 2400 for name in ("jpeg", "progressive jpeg", "heic", "bmp")}
    assert rooms["bmp"] == pytest.approx(2.33, abs=0.01)
    assert rooms["jpeg"] == 2  # turned
    assert rooms["progressive jpeg"] == 3
    assert rooms["heic"] > 2
    assert open_file(encode(FLAT, "JPEG"), LIMITS).room == PIXELS


def test_what_takes_far_too_long_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Before anything is decoded, by the field, with what was expected and what came."""
    dear, cheap = many_scans(SIDE, 95), many_scans(SIDE, 12)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=PIXELS)
    monkeypatch.setattr("cutout_server.imaging.decode._WORK_SLACK", 0)
    expected = f"ordinary JPEG of {32 * PIXELS:,} pixels, got one like "
    monkeypatch.setattr(costs, "_SCAN", 10.0)
    with pytest.raises(InvalidRequestError, match=expected) as refused:
        open_file(dear, limits, field="chunk.data")
    assert refused.value.reason == "IMAGE_TOO_COSTLY"
    assert [violation.field for violation in refused.value.violations] == ["chunk.data"]
    open_file(cheap, limits)
