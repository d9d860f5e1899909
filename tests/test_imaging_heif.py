"""HEIC and AVIF: read like every other format, within the same limits, upright, no larger inside."""

import io
import struct
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import skimage.data
from conftest import RunningServer
from cutout_client import Client
from cutout_client.pixels import read_rgb
from cutout_common import opening
from cutout_common.jpeg import StructureError
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import av1, heif
from cutout_server.imaging.decode import ImageLimits, decode, probe
from PIL import Image, ImageOps

pillow_heif.register_heif_opener()  # For writing; both ends read them without.
LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=2_000_000)
PHOTO = Image.fromarray(skimage.data.astronaut()[:301, :203])
FORMATS = {"HEIF": "image/heic", "AVIF": "image/avif"}
# What is written in a tenth of the time is read as well.
QUICKLY = {"HEIF": {"enc_params": {"preset": "ultrafast"}}, "AVIF": {"speed": 10}}


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **QUICKLY.get(file_format, {}), **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Image:
    """The photograph as a camera stores it that was held otherwise."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = PHOTO.copy()
    image.info["exif"] = exif.tobytes()
    return image


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_out_upright(file_format: str, orientation: int) -> None:
    """Whether the file or a decoder turns them, they are turned once; the header says the upright size."""
    stored = turned(orientation)
    content = encode(stored, file_format, exif=stored.info["exif"], quality=95)
    picture = decode(content, LIMITS)
    assert distance(picture.pixels, np.asarray(ImageOps.exif_transpose(stored))) < 3
    header = probe(content, LIMITS)
    assert (header.height, header.width, header.content_type) == (*picture.pixels.shape[:2], FORMATS[file_format])
    assert np.array_equal(read_rgb(content), picture.pixels)


@pytest.mark.parametrize("file_format", FORMATS)
def test_alpha_is_composited_on_white(file_format: str) -> None:
    """As in every other format."""
    image = PHOTO.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    content = encode(image, file_format, quality=95)
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    assert distance(decode(content, LIMITS).pixels, expected) < 3


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_first_picture_counts(file_format: str) -> None:
    """Of bursts and animations, and of what stands behind them."""
    content = encode(PHOTO, file_format, save_all=True, append_images=[PHOTO.rotate(180)] * 3, quality=95)
    for trailer in (b"", bytes(1000), encode(PHOTO.rotate(90), "JPEG") * 20):
        assert distance(decode(content + trailer, LIMITS).pixels, np.asarray(PHOTO)) < 4


def test_tiles_are_put_together() -> None:
    """Phones cut their pictures into a grid of tiles that reaches beyond the edges."""
    large = PHOTO.resize((375, 275))
    content = encode(large, "HEIF", tile_size=128, quality=95)
    assert heif.coded_pixels(content) > 6 * 128 * 128
    assert distance(decode(content, LIMITS).pixels, np.asarray(large)) < 3


@pytest.mark.parametrize("file_format", FORMATS)
def test_sizes_are_checked_before_anything_is_decoded(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header alone tells, and names both sizes."""
    content = encode(PHOTO, file_format)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(InvalidRequestError, match="at most 61,102 pixels, got 203 x 301") as caught:
        decode(content, ImageLimits(max_bytes=1 << 20, max_pixels=203 * 301 - 1))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


def saying(content: bytes, width: int, height: int) -> bytes:
    """A file that says another size than its pixels have."""
    at = content.index(b"ispe") + 8
    return content[:at] + struct.pack(">II", width, height) + content[at + 8 :]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_small_size_does_not_hide_large_pixels(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 64 x 64 pixels, by its own words, that holds four million of one colour."""
    content = saying(encode(Image.new("RGB", (2000, 2000), "red"), file_format), 64, 64)
    assert len(content) < 10_000
    if file_format == "AVIF":  # libheif refuses such frames by itself.
        monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(InvalidRequestError) as caught:
        decode(content, LIMITS)
    assert caught.value.reason == "IMAGE_DAMAGED"


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, *parts: bytes) -> bytes:
    return box(kind, bytes(4), *parts)


def grid(tiles: list[int], sizes: dict[int, tuple[int, int]]) -> bytes:
    """A file whose first picture is a grid of others."""
    entries = [
        box(b"infe", struct.pack(">IHH4s", 2 << 24, item, 0, b"grid" if item == 1 else b"hvc1")) for item in sizes
    ]
    properties = [full(b"ispe", struct.pack(">II", *size)) for size in sizes.values()]
    associations = b"".join(struct.pack(">HBB", item, 1, index) for index, item in enumerate(sizes, start=1))
    references = struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *tiles)
    meta = full(
        b"meta",
        full(b"pitm", struct.pack(">H", 1)),
        full(b"iinf", struct.pack(">H", len(entries)), *entries),
        box(b"iprp", box(b"ipco", *properties), full(b"ipma", struct.pack(">I", len(sizes)), associations)),
        full(b"iref", box(b"dimg", references)),
        full(b"iloc", b"\x44\0\0\0"),
    )
    return box(b"ftyp", b"heic\0\0\0\0heic") + meta


HOSTILE = {
    "one large tile": grid([2], {1: (64, 64), 2: (8000, 8000)}),
    "one tile, very often": grid([2] * 65_535, {1: (64, 64), 2: (64, 64)}),
    "tiny tiles": grid([2] * 65_535, {1: (64, 64), 2: (1, 1)}),
    "itself": grid([1], {1: (64, 64)}),
    "a tile that is not there": grid([7], {1: (64, 64)}),
    "no picture": box(b"ftyp", b"heic\0\0\0\0heic"),
    "two of everything": grid([2], {1: (64, 64), 2: (64, 64)}) * 2,
    "a million boxes": box(b"ftyp", b"heic\0\0\0\0heic") + box(b"free") * 500_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_made_to_hurt_are_refused_before_a_decoder_sees_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids of giants, of multitudes and of themselves."""
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(InvalidRequestError, match="the HEIC file"):
        decode(HOSTILE[name], LIMITS)
    assert heif.coded_pixels(grid([2, 2], {1: (100, 50), 2: (50, 50)})) == 100 * 50 + 2 * 50 * 50 + 3 * 64 * 64


def bits(*numbers: tuple[int, int]) -> bytes:
    """Numbers and how many bits each takes."""
    text = "".join(f"{number:0{count}b}" for number, count in numbers if count)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def unit(payload: bytes, kind: int = 1) -> bytes:
    return bytes([kind << 3 | 2, len(payload)]) + payload


def test_frames_are_as_large_as_their_headers_allow() -> None:
    """A still picture's header says the size; any other says how many bits a frame's own header has for it."""
    size = ((8, 4), (7, 4), (299, 9), (199, 8))
    still = bits((0, 3), (1, 1), (1, 1), (0, 5), *size)
    assert av1.largest_frame(unit(still)) == 300 * 200
    moving = bits(
        (0, 3), (0, 2), (0, 1), (1, 1), (1, 5), (0, 12), (9, 5), (0, 1), (1, 1), (0, 4), (0, 12), (3, 5), (0, 1), *size
    )
    assert av1.largest_frame(unit(moving)) == 512 * 256
    assert av1.largest_frame(unit(b"", 2) + unit(still) + unit(moving) + unit(b"abc", 6)) == 512 * 256
    assert av1.largest_frame(unit(bits((0, 3), (0, 2), (1, 1), (0, 64)))) == av1.UNBOUNDED
    assert av1.largest_frame(unit(b"abc", 6)) == 0
    with pytest.raises(StructureError, match="units"):
        av1.largest_frame(unit(b"", 2) * (av1.MAX_UNITS + 1))


def test_without_pillow_heif_the_refusal_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC is named, and so is the extra; nobody promises to accept it."""
    others = tuple(name for name in opening.readable() if name != "HEIF")
    monkeypatch.setattr(opening, "readable", lambda: others)
    with pytest.raises(
        InvalidRequestError, match=r"HEIC, which takes pillow-heif here \(pip install '.*\[heif\]'\)"
    ) as caught:
        decode(encode(PHOTO, "HEIF"), LIMITS)
    assert caught.value.reason == "IMAGE_FORMAT_UNSUPPORTED"
    assert str(caught.value).endswith("expected a JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF file")


@pytest.mark.parametrize("file_format", FORMATS)
def test_both_ends_read_the_same(server: RunningServer, tmp_path: Path, file_format: str) -> None:
    """A file of a phone is asked about, uploaded, given back and drawn upon like any other."""
    path = tmp_path / f"phone.{FORMATS[file_format].removeprefix('image/')}"
    path.write_bytes(encode(turned(6), file_format, exif=turned(6).info["exif"]))
    with Client(server.address) as client:
        result = client.segment_box(path, (4, 4, 90, 90))
        assert (result.image.width, result.image.height) == (301, 203)
        assert client.segment_box(result.picture.rgb(), (4, 4, 90, 90)).image == result.image
        assert result.overlay().size == (301, 203)
        uploaded = client.upload(path)
        assert uploaded.content_type == FORMATS[file_format]
        assert client.segment_box(uploaded, (4, 4, 90, 90)).image == result.image
        assert client.download(uploaded) == path.read_bytes()
