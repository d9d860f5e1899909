"""Colour JPEGs skip Pillow's own array, and nobody can tell."""

import io

import numpy as np
import pytest
import skimage.data
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.decode import ImageLimits, decode
from cutout_server.imaging.direct import decode_rgb
from PIL import Image, ImageOps

LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=2_000_000)
PHOTO = Image.fromarray(skimage.data.astronaut()[:301, :203])
JPEGS = [
    {"quality": quality, "subsampling": subsampling, "progressive": progressive, "restart_marker_rows": restart}
    for quality, restart in ((30, 3), (92, 0))
    for subsampling in (0, 1, 2)
    for progressive in (False, True)
] + [{"keep_rgb": True}]


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_jpegs_are_pillows_to_the_bit(options: dict) -> None:
    """Every sampling, scan order and quality gives the pixels that Pillow gives."""
    content = encode(PHOTO, "JPEG", **options)
    direct = decode_rgb(content, opened(content))
    assert direct is not None
    assert (direct == np.asarray(opened(content))).all()
    assert direct.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_orientation_is_applied_once(file_format: str, orientation: int) -> None:
    """The picture is upright, as Pillow's own transposition makes it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(PHOTO, file_format, exif=exif)
    assert (decode(content, LIMITS).pixels == np.asarray(ImageOps.exif_transpose(opened(content)))).all()


@pytest.mark.parametrize(
    ("file_format", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("WEBP", "RGB", {}),
    ],
)
def test_the_rest_is_left_to_pillow(file_format: str, mode: str, options: dict) -> None:
    """What needs more than a copy of its values is not taken."""
    content = encode(PHOTO.convert(mode), file_format, **options)
    assert decode_rgb(content, opened(content)) is None


@pytest.mark.parametrize("seed", range(60))
def test_damage_is_pillows_business(seed: int) -> None:
    """Whatever is broken in a file, it is refused, or repaired to the same pixels, as if Pillow alone were there."""
    rng = np.random.default_rng(seed)
    content = bytearray(encode(PHOTO, "JPEG", **JPEGS[seed % len(JPEGS)]))
    for at in rng.integers(2, len(content), 3):
        content[at] = rng.integers(256)
    try:
        image = opened(bytes(content))
        alone = np.asarray(image.convert("RGB")) if image.format == "JPEG" else None
    except (OSError, SyntaxError, ValueError):
        alone = None
    try:
        pixels = decode(bytes(content), LIMITS).pixels
    except InvalidRequestError:
        assert alone is None
    else:
        assert alone is not None
        assert (pixels == alone).all()


def test_what_is_cut_short_is_refused() -> None:
    """No half of a picture passes for a whole one, wherever the file ends."""
    content = encode(PHOTO, "JPEG")
    for share in (0.1, 0.5, 0.9, 0.99):
        part = content[: int(len(content) * share)]
        assert decode_rgb(part, opened(content)) is None
        with pytest.raises(InvalidRequestError, match="truncated"):
            decode(part, LIMITS)
