"""Pictures of every kind, as the real server sees them."""

import io
from pathlib import Path

import cutout_client.images
import numpy as np
import PIL.Image
import pytest
import tifffile
from conftest import Photo, RunningServer
from cutout.v1 import image_pb2, mask_pb2, segmentation_service_pb2
from cutout_client import Client, ImageId, PermissionDeniedError, Prompt, Segmentation
from cutout_client.exports import EXPORTS
from cutout_client.saving import FORMATS

BOX = (4, 4, 28, 28)
RNG = np.random.default_rng(2)
RGB = RNG.integers(0, 256, (32, 48, 3), np.uint8)
GREY = RNG.integers(0, 256, (32, 48), np.uint8)
RGBA = np.dstack([RGB, RNG.integers(0, 256, (32, 48), np.uint8)])


@pytest.fixture(scope="module")
def client(server: RunningServer):
    with Client(server.address) as connected:
        yield connected


def seen(client: Client, image: object) -> str:
    """The digest of the pixels that the server saw."""
    return ask(client, image).image.pixels_sha256


def ask(client: Client, image: object) -> Segmentation:
    return client.segment_box(image, BOX)


def file_of(image: PIL.Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tensor(values: np.ndarray, dtype: int) -> image_pb2.Image:
    """The values as the contract says them, built without the client."""
    height, width, channels = values.shape
    raw = image_pb2.RawTensor(height=height, width=width, channels=channels, dtype=dtype, data=values.tobytes())
    return image_pb2.Image(tensor=raw)


@pytest.fixture(scope="module")
def rgb_digest(client: Client) -> str:
    """The digest of RGB, sent as a PNG that Pillow wrote."""
    return seen(client, file_of(PIL.Image.fromarray(RGB)))


KINDS = {
    "str": str,
    "Path": Path,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "Pillow": lambda _: PIL.Image.fromarray(RGB),
    "Pillow RGBA": lambda _: PIL.Image.fromarray(RGB).convert("RGBA"),
    "uint8": lambda _: RGB,
    "uint8, not contiguous": lambda _: np.dstack([RGB, RGB])[..., :3],
    "uint8, read-only": lambda _: np.frombuffer(RGB.tobytes(), np.uint8).reshape(RGB.shape),
    "uint16": lambda _: RGB.astype(np.uint16) * 257,
    "float32": lambda _: RGB.astype(np.float32) / 255,
    "float64": lambda _: RGB / 255,
    "uint16, big-endian": lambda _: (RGB.astype(np.uint16) * 257).astype(">u2"),
    "float32, big-endian": lambda _: (RGB.astype(np.float32) / 255).astype(">f4"),
    "float64, big-endian": lambda _: (RGB / 255).astype(">f8"),
    "RGBA": lambda _: np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """RGB as a file."""
    file = tmp_path / "picture.png"
    file.write_bytes(file_of(PIL.Image.fromarray(RGB)))
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_same_picture(client: Client, rgb_digest: str, path: Path, kind: str) -> None:
    """A picture in any kind of container is the same picture to the server, and is there to be drawn upon."""
    result = ask(client, KINDS[kind](path))
    assert result.image.pixels_sha256 == rgb_digest
    np.testing.assert_array_equal(result.picture.rgb(), RGB)
    assert result.overlay().size == (48, 32)


def test_open_files(client: Client, rgb_digest: str, path: Path) -> None:
    """An open file is read from where it stands; Pillow images may still be open; text files are refused."""
    with path.open("rb") as file:
        assert seen(client, file) == rgb_digest
    with PIL.Image.open(path) as image:
        assert seen(client, image) == rgb_digest
    with path.open() as file, pytest.raises((TypeError, UnicodeDecodeError)):
        ask(client, file)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (RGB, image_pb2.RawTensor.DATA_TYPE_UINT8),
        (RGBA, image_pb2.RawTensor.DATA_TYPE_UINT8),
        (GREY[..., None], image_pb2.RawTensor.DATA_TYPE_UINT8),
        (RNG.integers(0, 65536, (32, 48, 3), np.uint16), image_pb2.RawTensor.DATA_TYPE_UINT16),
        (RNG.random((32, 48, 3), np.float32), image_pb2.RawTensor.DATA_TYPE_FLOAT32),
        (RNG.random((32, 48, 1), np.float32), image_pb2.RawTensor.DATA_TYPE_FLOAT32),
    ],
    ids=["RGB", "RGBA", "grey", "uint16", "float32", "float32 grey"],
)
def test_arrays_become_what_the_server_makes_of_them(client: Client, stubs, values: np.ndarray, dtype: int) -> None:
    """An array is brought to 8 bits here exactly as the server would do it."""
    boxes = [mask_pb2.Box(x_min=4, y_min=4, x_max=28, y_max=28)]
    request = segmentation_service_pb2.SegmentByBoxRequest(image=tensor(values, dtype), boxes=boxes)
    raw = stubs.segmentation.SegmentByBox(request).segmentation.image.pixels_sha256
    assert seen(client, values) == raw


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_pillow_mode(client: Client, mode: str) -> None:
    """A Pillow image of any mode is what its conversion to RGB, on white, is."""
    image = PIL.Image.fromarray(RGBA).convert(mode)
    white = PIL.Image.new("RGBA", image.size, "white")
    expected = np.asarray(PIL.Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    result = ask(client, image)
    if image.has_transparency_data:  # how a product is rounded is not laid down
        np.testing.assert_allclose(result.picture.rgb().astype(int), expected.astype(int), atol=1)
    else:
        np.testing.assert_array_equal(result.picture.rgb(), expected)
        assert result.image.pixels_sha256 == seen(client, expected)


def test_deep_pillow_modes(client: Client) -> None:
    """16-bit and float images keep their high bits."""
    deep = PIL.Image.fromarray(GREY.astype(np.uint16) * 256 + 77)
    assert deep.mode == "I;16"
    expected = seen(client, GREY)
    assert seen(client, deep) == expected
    assert seen(client, PIL.Image.frombytes("I;16B", deep.size, np.asarray(deep).astype(">u2").tobytes())) == expected
    assert seen(client, PIL.Image.fromarray(GREY.astype(np.int32) * 256 + 77)) == expected
    assert seen(client, PIL.Image.fromarray(GREY.astype(np.float32) / 255)) == expected


GREY16 = RNG.integers(0, 65536, (32, 48), np.uint16)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_deep_grey_files_of_either_byte_order(
    client: Client, tmp_path: Path, byteorder: str, photometric: str, orientation: int
) -> None:
    """A TIFF of 16-bit grey is drawn upon, cut out and saved as the picture that the server saw."""
    path = tmp_path / "grey.tiff"
    turned = (274, 3, 1, orientation, True)
    tifffile.imwrite(path, GREY16, byteorder=byteorder, photometric=photometric, extratags=[turned])
    grey = (GREY16 >> 8).astype(np.uint8)
    grey = 255 - grey if photometric == "miniswhite" else grey
    expected = np.dstack([np.rot90(grey, -1) if orientation == 6 else grey] * 3)
    result = ask(client, path)
    np.testing.assert_array_equal(result.picture.rgb(), expected)
    assert result.image.pixels_sha256 == seen(client, expected)
    pictures = set(FORMATS) - {"polygons"} - set(EXPORTS)
    assert {file.suffix for file in result.save(tmp_path, pictures)} == {".png", ".json", ".npz"}


def test_prompts_of_either_byte_order(client: Client) -> None:
    """Arrays of points, boxes and logits mean what their values say."""
    first = client.segment_points(RGB, np.array([[9.0, 9.0], [20.0, 20.0]]), return_logits=True)
    assert first[0].logits is not None
    swapped = client.segment_points(RGB, np.array([[9, 9], [20, 20]], ">f4"), return_logits=True)
    np.testing.assert_array_equal(swapped.masks, first.masks)
    boxes = [client.segment_box(RGB, np.array([BOX], dtype)) for dtype in (">f8", "<f8", ">i2")]
    assert {result.boxes.tobytes() for result in boxes} == {boxes[0].boxes.tobytes()}
    refined = [
        client.segment_points(RGB, Prompt(points=[(9, 9)], logits=first[0].logits.astype(dtype)))
        for dtype in ("<f4", ">f4", ">f8")
    ]
    assert {result.masks.tobytes() for result in refined} == {refined[0].masks.tobytes()}


def test_exif_orientation(client: Client, tmp_path: Path) -> None:
    """A file is turned upright, for the server as for drawing; a Pillow image is taken as its pixels stand."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    PIL.Image.fromarray(RGB).save(path, exif=exif)
    result = ask(client, path)
    assert (result.image.width, result.image.height) == (32, 48)
    np.testing.assert_array_equal(result.picture.rgb(), np.rot90(RGB, -1))
    assert result.overlay().size == (32, 48)
    with PIL.Image.open(path) as image:
        assert ask(client, image).image.width == 48


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(0, 4, 3\)"),
        (np.zeros(4, np.uint8), ValueError, r"\(4,\)"),
        (np.zeros((4, 4), np.int64), TypeError, "int64"),
        (np.zeros((4, 4), bool), TypeError, "bool"),
        (np.full((4, 4), 1.5), ValueError, r"\[0, 1\]"),
        (np.full((4, 4), np.nan), ValueError, r"\[0, 1\]"),
        (PIL.Image.fromarray(np.full((4, 4), 70000, np.int32)), ValueError, "65535"),
        (17, TypeError, "int"),
        (None, TypeError, "NoneType"),
        (io.StringIO("text"), TypeError, "binary"),
        ("no/such/file.jpg", FileNotFoundError, "no/such/file.jpg"),
    ],
)
def test_what_is_no_picture(client: Client, image: object, error: type, text: str) -> None:
    """What cannot be a picture is refused here, with the reason."""
    with pytest.raises(error, match=text):
        ask(client, image)


def test_address(client: Client) -> None:
    """An address is left to the server to fetch, which refuses it unless its operator allows that."""
    with pytest.raises(PermissionDeniedError):
        ask(client, "https://example.org/cat.jpg")


def test_uploaded(client: Client, rgb_digest: str, path: Path) -> None:
    """An upload can be asked about as it is and by its id, fetched back, and forgotten."""
    uploaded = client.upload(path)
    assert (uploaded.width, uploaded.height, uploaded.content_type) == (48, 32, "image/png")
    assert uploaded.expire_time.tzinfo is not None
    assert client.download(uploaded) == path.read_bytes()
    assert client.download(str(uploaded.image_id)) == path.read_bytes()
    assert ask(client, uploaded).overlay().size == (48, 32)
    by_id = ask(client, ImageId(uploaded.image_id))
    assert by_id.image.pixels_sha256 == rgb_digest
    with pytest.raises(ValueError, match="pass a local one"):
        by_id.overlay()
    assert by_id.overlay(path).size == (48, 32)
    client.delete(uploaded)
    with pytest.raises(cutout_client.NotFoundError):
        ask(client, uploaded)


def test_upload_of_pixels_loses_nothing(client: Client) -> None:
    """Pixels are stored as a PNG that holds the same values."""
    uploaded = client.upload(RGBA)
    with PIL.Image.open(io.BytesIO(client.download(uploaded))) as stored:
        np.testing.assert_array_equal(np.asarray(stored), RGBA)


def test_upload_of_what_is_not_here(client: Client) -> None:
    """There is nothing to upload of an address."""
    with pytest.raises(ValueError, match="server's side"):
        client.upload("https://example.org/cat.jpg")


@pytest.mark.parametrize("kind", ["file", "array"])
def test_large_pictures_are_uploaded(client: Client, monkeypatch, kind: str) -> None:
    """A picture that is too large for a message goes up in pieces by itself, and is the same picture then."""
    sent = []
    chunks = cutout_client.images.chunks
    monkeypatch.setattr("cutout_client.requests.chunks", lambda data: sent.append(len(data)) or chunks(data))
    noise = RNG.integers(0, 256, (1200, 1300, 3), np.uint8)
    png = file_of(PIL.Image.fromarray(noise), compress_level=0)
    result = ask(client, png if kind == "file" else noise)
    (size,) = sent
    assert size > cutout_client.images.INLINE_BYTES
    assert (result.image.width, result.image.height) == (1300, 1200)
    np.testing.assert_array_equal(result.picture.rgb(), noise)


def test_photo_file_and_pixels(client: Client, photos: dict[str, Photo], tmp_path: Path) -> None:
    """A JPEG photograph is decoded to the same pixels at both ends."""
    path = tmp_path / "coffee.jpg"
    path.write_bytes(photos["coffee"].jpeg)
    result = ask(client, path)
    assert seen(client, result.picture.rgb()) == result.image.pixels_sha256
