"""Large PNGs are decoded a band at a time, and nobody can tell."""

import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import direct, png_bands
from cutout_server.imaging.decode import ImageLimits, decode
from PIL import Image

PHOTO = skimage.data.astronaut()[:301, :203]
LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=2_000_000)


def png(pixels: np.ndarray, filters: np.ndarray, idat: int) -> bytes:
    """A file whose rows have these filters (PNG specification, section 9.2), in IDAT chunks of so many bytes."""
    values = pixels.astype(np.int16).reshape(len(pixels), -1)
    up = np.pad(values, ((1, 0), (0, 0)))[:-1]
    left, corner = (np.pad(each, ((0, 0), (3, 0)))[:, :-3] for each in (values, up))
    guess = left + up - corner
    distance = np.abs(np.stack([guess - left, guess - up, guess - corner]))
    paeth = np.choose(distance.argmin(axis=0), [left, up, corner])
    predictions = np.stack([np.zeros_like(values), left, up, (left + up) // 2, paeth])
    rows = (values - predictions[filters, np.arange(len(values))]).astype(np.uint8)
    data = zlib.compress(np.column_stack([filters.astype(np.uint8), rows]).tobytes())
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", data[at : at + idat]) for at in range(0, len(data), idat)] + [(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures, in many bands."""
    monkeypatch.setattr(direct, "_LARGE", 1)
    monkeypatch.setattr(png_bands, "_BAND_BYTES", 7 * 1024)


@pytest.mark.parametrize("kind", ["none", "sub", "up", "average", "paeth", "mixed"])
def test_every_filter(kind: str) -> None:
    """Bands give the pixels whatever filter crosses from one to the next, and wherever the chunks end."""
    names = ["none", "sub", "up", "average", "paeth"]
    chosen = np.random.default_rng(0).integers(0, 5, len(PHOTO))
    filters = chosen if kind == "mixed" else np.full(len(PHOTO), names.index(kind))
    content = png(PHOTO, filters, 997)
    assert (np.asarray(Image.open(io.BytesIO(content))) == PHOTO).all()
    assert (png_bands.decode_bands(io.BytesIO(content), PHOTO.shape[1], PHOTO.shape[0]) == PHOTO).all()
    assert (decode(content, LIMITS).pixels == PHOTO).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (7, 333)])
def test_every_shape(shape: tuple[int, int]) -> None:
    """Lines and dots, too."""
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    content = png(pixels, np.full(shape[0], 4), 1 << 20)
    assert (png_bands.decode_bands(io.BytesIO(content), shape[1], shape[0]) == pixels).all()


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_pillows_business(seed: int) -> None:
    """A file that is broken or cut short is refused, or gives the pixels that Pillow gives."""
    rng = np.random.default_rng(seed)
    content = bytearray(png(PHOTO, rng.integers(0, 5, len(PHOTO)), 4096))
    content[rng.integers(33, len(content))] ^= 1 << int(rng.integers(8))
    if seed % 4 == 0:
        del content[int(rng.integers(100, len(content))) :]
    try:
        alone = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        alone = None
    try:
        pixels = decode(bytes(content), LIMITS).pixels
    except InvalidRequestError:
        assert alone is None
    else:
        assert alone is not None
        assert (pixels == alone).all()


@pytest.mark.parametrize(
    ("mode", "options"), [("RGBA", {}), ("L", {}), ("P", {}), ("RGB", {"transparency": (1, 2, 3)})]
)
def test_the_rest_is_left_to_pillow(mode: str, options: dict) -> None:
    """What needs more than a copy of its values is not taken."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(file, "PNG", **options)
    assert direct.decode_rgb(file.getvalue(), Image.open(io.BytesIO(file.getvalue()))) is None
