"""Every format, depth and orientation that the contract names, held against other decoders."""

import hashlib
import io
import itertools
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pillow_heif
import pytest
import skimage.data
import tifffile
from blake3 import blake3
from cutout_common.formats import CONTENT_TYPES
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.decode import ImageLimits, decode, digest, from_tensor, probe
from cutout_server.types import TensorImage
from PIL import Image, ImageOps

pillow_heif.register_heif_opener()  # For writing; the server reads them without.
LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=2_000_000)
# A server ignores these by a filter of its own, which pytest sets aside.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def png(header, body, *chunks):
    """A PNG file from its IHDR fields, its raw rows and other chunks."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header)), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def on_white(rgba):
    alpha = rgba[..., 3:].astype(float) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("file_format", list(CONTENT_TYPES))
def test_photographs_decode_as_pillow_decodes_them(name, file_format):
    """Each accepted format gives the pixels that Pillow gives, and the header says the same size."""
    content = encode(Image.fromarray(getattr(skimage.data, name)()), file_format)
    picture = decode(content, LIMITS)
    assert np.array_equal(picture.pixels, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    assert picture.pixels.flags.c_contiguous
    header = probe(content, LIMITS)
    assert (header.width, header.height) == (picture.width, picture.height)
    assert header.content_type == CONTENT_TYPES[file_format]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(file_format, orientation):
    """All eight orientations come out upright, and the header's size is the upright one."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(noise(37, 53, 3)), file_format, exif=exif)
    picture = decode(content, LIMITS)
    assert np.array_equal(picture.pixels, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))))
    assert (probe(content, LIMITS).width, probe(content, LIMITS).height) == (picture.width, picture.height)


def test_orientation_behind_the_pixels_of_a_png_is_seen():
    """An eXIf chunk counts wherever it stands, in the header and in the picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png((5, 2, 8, 0, 0, 0, 0), b"\0abcde\0fghij", (b"eXIf", exif.tobytes()))
    at, size = content.index(b"eXIf") - 4, len(exif.tobytes()) + 12
    moved = content[:at] + content[at + size : -12] + content[at : at + size] + content[-12:]
    assert decode(moved, LIMITS).pixels.shape == decode(content, LIMITS).pixels.shape == (5, 2, 3)
    assert (probe(moved, LIMITS).width, probe(moved, LIMITS).height) == (2, 5)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_unreadable_exif_does_not_spoil_the_picture(exif):
    """A picture whose metadata is damaged is taken as upright."""
    image = Image.fromarray(noise(9, 7, 3))
    assert decode(encode(image, "WEBP", exif=exif, lossless=True), LIMITS).pixels.shape == (9, 7, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_png_keeps_the_high_byte(channels):
    """Grey, RGB and RGBA of 16 bits agree with OpenCV's full-depth reading."""
    values = noise(19, 23, channels, dtype=np.uint16)
    if channels == 4:
        values[..., 3] = 65535
    content = cv2.imencode(".png", values)[1].tobytes()
    expected = (cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).reshape(values.shape) >> 8)[
        ..., :3
    ]
    assert np.array_equal(decode(content, LIMITS).pixels, np.broadcast_to(expected[..., ::-1], (19, 23, 3)))


LAYOUTS = ["grey", "white is zero", "rgb", "planes", "rgba", "tiles"]


@pytest.mark.parametrize(("dtype", "byteorder", "layout"), [*itertools.product([np.uint8, np.uint16], "<>", LAYOUTS)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_decodes_as_tifffile_wrote_it(dtype, byteorder, compression, layout):
    """Every byte order, compression and layout of 8 and 16 bits gives the values that were written."""
    values = noise(21, 34, {"rgb": 3, "planes": 3, "rgba": 4, "tiles": 3}.get(layout, 1), dtype=dtype)
    if layout == "rgba":
        values[..., 3] = np.iinfo(dtype).max
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        np.moveaxis(values, 2, 0) if layout == "planes" else values.squeeze(),
        byteorder=byteorder,
        compression=compression,
        photometric={"grey": "minisblack", "white is zero": "miniswhite"}.get(layout, "rgb"),
        planarconfig={"planes": "separate", "rgb": "contig", "tiles": "contig", "rgba": "contig"}.get(layout),
        tile=(16, 16) if layout == "tiles" else None,
    )
    expected = (values >> 8 * (values.itemsize - 1)).astype(np.uint8)[..., :3]
    expected = 255 - expected if layout == "white is zero" else expected
    assert np.array_equal(decode(file.getvalue(), LIMITS).pixels, np.broadcast_to(expected, (21, 34, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint32, np.int32])
def test_tiff_without_a_black_and_white_point_is_refused(dtype):
    """Floating-point, signed and 32-bit values are not guessed at."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.ones((4, 5), dtype), photometric="minisblack")
    with pytest.raises(InvalidRequestError, match=r"image\.content: .*(send a tensor|not supported)"):
        decode(file.getvalue(), LIMITS)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(mode, file_format):
    """Transparent pixels show white, half transparent ones half of it."""
    image = Image.fromarray(noise(16, 16, len(mode)))
    content = encode(image, file_format, **({"lossless": True, "exact": True} if file_format == "WEBP" else {}))
    assert np.abs(decode(content, LIMITS).pixels - on_white(np.asarray(image.convert("RGBA")))).max() <= 1


@pytest.mark.parametrize(
    ("header", "body", "transparent", "expected"),
    [
        ((8, 1, 1, 0, 0, 0, 0), b"\0\xaa", b"\0\0", [255] * 8),
        ((4, 1, 2, 0, 0, 0, 0), b"\0\x1b", b"\0\x01", [0, 255, 170, 255]),
        ((2, 1, 4, 0, 0, 0, 0), b"\0\x25", b"\0\x05", [34, 255]),
        ((2, 1, 8, 0, 0, 0, 0), b"\0\x10\x20", b"\0\x20", [16, 255]),
        ((2, 1, 16, 0, 0, 0, 0), b"\0\x10\x20\x10\x21", b"\x10\x21", [16, 255]),
    ],
)
def test_the_transparent_grey_of_a_png_is_white_at_every_depth(header, body, transparent, expected):
    """Only the grey that tRNS names, in the file's own depth, becomes the background."""
    picture = decode(png(header, body, (b"tRNS", transparent)), LIMITS)
    assert picture.pixels[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_is_white(depth):
    """The same for truecolour."""
    body = b"\0" + bytes([1, 2, 3, 9, 8, 7]) if depth == 8 else b"\0" + bytes([1, 0, 2, 0, 3, 0, 9, 0, 8, 0, 7, 0])
    transparent = bytes([0, 9, 0, 8, 0, 7]) if depth == 8 else bytes([9, 0, 8, 0, 7, 0])
    picture = decode(png((2, 1, depth, 2, 0, 0, 0), body, (b"tRNS", transparent)), LIMITS)
    assert picture.pixels[0].tolist() == [[1, 2, 3], [255, 255, 255]]


@pytest.mark.parametrize("alphas", [b"\xff\0", b"\xff\x80"])
def test_the_palette_of_a_png_may_be_transparent(alphas):
    """Alpha of a palette entry is composited like any other."""
    palette = bytes([10, 20, 30, 40, 50, 60])
    pixels = decode(png((2, 1, 8, 3, 0, 0, 0), b"\0\0\1", (b"PLTE", palette), (b"tRNS", alphas)), LIMITS).pixels
    expected = on_white(np.array([[[10, 20, 30, 255], [40, 50, 60, alphas[1]]]]))
    assert np.abs(pixels - expected).max() <= 1


def test_gif_gives_its_first_frame_with_transparency_on_white():
    """Later frames are not looked at."""
    frames = [Image.new("RGBA", (6, 4), colour) for colour in ((200, 0, 0, 255), (0, 200, 0, 255))]
    frames[0].putpixel((0, 0), (0, 0, 0, 0))
    pixels = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), LIMITS).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        *itertools.product(["PNG", "BMP"], ["1", "L", "P", "RGB"]),
        *itertools.product(["JPEG"], ["L", "CMYK", "YCbCr", "RGB"]),
        *itertools.product(["TIFF"], ["1", "L", "P", "CMYK", "YCbCr", "RGB"]),
    ],
)
def test_other_modes_become_rgb(file_format, mode):
    """Bitmaps, greys, palettes, CMYK and YCbCr look as Pillow shows them."""
    content = encode(Image.fromarray(skimage.data.chelsea()).convert(mode), file_format)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content, LIMITS).pixels, expected)


def test_inverted_cmyk_of_adobe_is_not_a_negative():
    """A CMYK JPEG of a photograph still resembles it."""
    photograph = skimage.data.chelsea()
    pixels = decode(encode(Image.fromarray(photograph).convert("CMYK"), "JPEG", quality=95), LIMITS).pixels
    assert np.abs(pixels.astype(int) - photograph).mean() < 3


def test_digest_tells_pictures_apart_and_files_alike():
    """Equal pixels have equal digests whatever file they came in; another shape of the same bytes has another."""
    values = noise(6, 4, 3)
    image = Image.fromarray(values)
    pictures = [decode(encode(image, name), LIMITS) for name in ("PNG", "BMP", "TIFF")]
    pictures.append(from_tensor(TensorImage(values), LIMITS))
    hashed = struct.pack("<II", 6, 4) + values.tobytes()
    assert {picture.key for picture in pictures} == {blake3(hashed).hexdigest()}
    assert {digest(picture.pixels) for picture in pictures} == {hashlib.sha256(hashed).hexdigest()}
    other = from_tensor(TensorImage(values.reshape(4, 6, 3)), LIMITS)
    assert other.key != pictures[0].key
    assert digest(other.pixels) != digest(values)


def test_large_pictures_are_put_together_from_bands():
    """A picture of many bands, turned, is the same as one in a single piece."""
    values = noise(1300, 1500, 3)
    exif = Image.Exif()
    exif[0x0112] = 8
    content = encode(Image.fromarray(values), "PNG", exif=exif, compress_level=0)
    assert np.array_equal(decode(content, LIMITS).pixels, np.rot90(values))


def test_pictures_decode_on_many_threads_at_once():
    """Nothing is shared between calls."""
    contents = [encode(Image.fromarray(noise(64, 64 + i, 3)), name) for i, name in enumerate([*CONTENT_TYPES] * 4)]
    expected = [decode(content, LIMITS).key for content in contents]
    with ThreadPoolExecutor(8) as pool:
        assert [p.key for p in pool.map(lambda content: decode(content, LIMITS), contents * 4)] == expected * 4


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tensors_of_every_type_agree(channels):
    """The same values as uint8, uint16 and float32 are the same picture."""
    values = noise(11, 13, channels)
    tensors = [values, values.astype(np.uint16) * 257, values.astype(np.float32) / 255]
    assert len({from_tensor(TensorImage(tensor), LIMITS).key for tensor in tensors}) == 1
    pixels = from_tensor(TensorImage(values), LIMITS).pixels
    assert np.abs(pixels - (on_white(values) if channels == 4 else np.broadcast_to(values, (11, 13, 3)))).max() <= 1
    pixels[0, 0] = 0  # Its own memory, not the message's.


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (np.full((2, 2, 3), np.nan, np.float32), "image.tensor.data"),
        (np.full((2, 2, 3), 1.01, np.float32), "image.tensor.data"),
        (np.full((2, 2, 3), -0.01, np.float32), "image.tensor.data"),
        (np.zeros((2, 2, 3), np.int64), "image.tensor.dtype"),
        (np.zeros((2, 2, 2), np.uint8), "image.tensor"),
        (np.zeros((2, 2), np.uint8), "image.tensor"),
        (np.zeros((0, 2, 3), np.uint8), "image.tensor"),
        (np.zeros((2000, 2000, 1), np.uint8), "image.tensor"),
    ],
)
def test_tensors_out_of_bounds_are_refused(values, field):
    """The field is named, whatever is wrong with it."""
    with pytest.raises(InvalidRequestError) as caught:
        from_tensor(TensorImage(values), LIMITS)
    assert [violation.field for violation in caught.value.violations] == [field]
