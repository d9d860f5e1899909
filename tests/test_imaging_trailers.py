"""What stands behind a picture in its file is nobody's business: films, depth maps, second pictures, junk."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
import pytest
import skimage.data
from conftest import RunningServer
from cutout_client import Client
from cutout_common import jpeg
from cutout_common.formats import CONTENT_TYPES
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import structure
from cutout_server.imaging.decode import ImageLimits, decode, probe
from PIL import Image

pillow_heif.register_heif_opener()  # For writing; the server reads them without.
LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=2_000_000)
PHOTO = Image.fromarray(skimage.data.astronaut()[:301, :203])
# Noise has a scan's marker in every 65,536th place: a film of some megabytes has hundreds.
FILM = b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8).tobytes()
SCANS = b"\xff\xda\0\x0c" * 200
END = b"\xff\xd9"


def encode(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return decode(content, LIMITS).pixels


JPEGS = {
    f"{mode}{' progressive' * progressive}": encode(PHOTO.convert(mode), progressive=progressive)
    for mode in ("L", "RGB", "CMYK")
    for progressive in (False, True)
}
FILES = JPEGS | {name: encode(PHOTO, name) for name in CONTENT_TYPES if name != "JPEG"}


@pytest.mark.parametrize("trailer", [FILM, SCANS, b"\xff" * 1000, bytes(1000)], ids=["film", "scans", "fill", "zeros"])
@pytest.mark.parametrize("name", FILES)
def test_trailers_change_nothing(name: str, trailer: bytes) -> None:
    """A file with anything behind its picture is that picture, in every format."""
    content = FILES[name]
    assert np.array_equal(pixels(content + trailer), pixels(content))
    assert probe(content + trailer, LIMITS) == probe(content, LIMITS)


@pytest.mark.parametrize("name", FILES)
def test_a_second_picture_is_not_looked_at(name: str) -> None:
    """Gain maps, stereo pairs and hundreds of others behind the first count for nothing."""
    content = FILES[name]
    assert np.array_equal(pixels(content + encode(PHOTO.rotate(90), "JPEG", progressive=True) * 20), pixels(content))


def test_pictures_of_several_pictures_are_the_first() -> None:
    """A file in the Multi-Picture Format, as phones write for gain maps, is read as the JPEG that it begins with."""
    content = encode(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)] * 40, progressive=True)
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert np.array_equal(pixels(content), np.asarray(Image.open(io.BytesIO(content))))
    assert probe(content, LIMITS).content_type == "image/jpeg"


def test_chunks_behind_the_end_of_a_png_count_for_nothing() -> None:
    """Neither for their number, nor for an orientation among them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(PHOTO, "PNG", exif=exif)
    at = turned.index(b"eXIf") - 4
    (size,) = struct.unpack_from(">I", turned, at)
    content = encode(PHOTO, "PNG")
    many = (struct.pack(">I4s", 0, b"abCd") + bytes(4)) * (structure.MAX_PNG_CHUNKS + 1)
    assert np.array_equal(pixels(content + turned[at : at + 12 + size] + many), pixels(content))


def test_run_lengths_are_counted_inside_of_the_picture() -> None:
    """A BMP's own size of its pixels counts, and decoders see no more of the file."""
    rows = b"\4\7\0\0" * 4 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 8, 1, len(rows), 1, 1, 256, 0)
    palette = bytes(value for grey in range(256) for value in (grey, grey, grey, 0))
    content = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + palette + rows
    expected = np.full((4, 4, 3), 7)
    trailer = bytes(structure.MAX_BMP_RLE_BYTES)
    limits = ImageLimits(max_bytes=1 << 30, max_pixels=100)
    assert np.array_equal(decode(content, limits).pixels, expected)
    assert np.array_equal(decode(content + trailer, limits).pixels, expected)
    endless = content[: -len(rows)] + b"\0\0"  # Claims to be short, and has nothing but ends of lines.
    with pytest.raises(InvalidRequestError):
        decode(endless + trailer, limits)


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_may_lack_its_end_marker(name: str, cut: int) -> None:
    """All of its pixels are there, so that it is read as if the marker were there, too."""
    content = JPEGS[name]
    assert np.array_equal(pixels(content[:-cut]), pixels(content))


def test_a_panorama_without_an_end_marker_and_with_a_film_is_read() -> None:
    """As Samsung's cameras write them: one scan, no marker, and right behind it a trailer. OpenCV reads them, too."""
    content = JPEGS["RGB"]
    for trailer in (FILM, SCANS, FILM[:1000] + content):
        panorama = content[:-2] + trailer
        assert np.array_equal(pixels(panorama), pixels(content))
        assert np.array_equal(pixels(panorama), cv2.imdecode(np.frombuffer(panorama, np.uint8), 1)[..., ::-1])


def test_a_progressive_picture_is_whole_once_all_of_its_precision_is_there() -> None:
    """Without its marker, it is refused when a later scan is missing, although what is there looks well."""
    content = JPEGS["RGB progressive"]
    scans = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    assert np.array_equal(pixels(content[:-2] + b"\0\xff\1" + FILM), pixels(content))
    for end in scans[1:]:
        assert not np.array_equal(pixels(content[:end] + END), pixels(content))
        with pytest.raises(InvalidRequestError, match="truncated"):
            decode(content[:end], LIMITS)


@pytest.mark.parametrize("trailer", [b"", b"\xff\xfe\0\4ab"], ids=["nothing", "comment"])
@pytest.mark.parametrize("name", ["L", "RGB", "CMYK"])
def test_no_half_of_a_picture_passes_for_a_whole_one(name: str, trailer: bytes) -> None:
    """Without its marker, a picture of which data is missing is refused."""
    content = JPEGS[name]
    for size in (len(content) // 2, len(content) - 300):
        with pytest.raises(InvalidRequestError, match="truncated"):
            decode(content[:size] + trailer, LIMITS)


def test_a_jpegs_pieces_are_counted_up_to_the_end_of_its_picture() -> None:
    """As many scans as are allowed pass, wherever they stand; one more does not; those in comments are none."""
    content = JPEGS["L progressive"]
    scan = content[content.rfind(b"\xff\xda") : -2]
    begin = content[: content.rfind(b"\xff\xda")]
    before = begin.count(b"\xff\xda")
    hidden = b"\xff\xfe" + struct.pack(">H", 2 + len(SCANS)) + SCANS
    for filler in (b"", b"\xff", hidden):
        allowed = begin + (scan + filler) * (jpeg.MAX_SCANS - before)
        assert jpeg.ended(allowed + END) == allowed + END
        assert np.array_equal(pixels(allowed), pixels(content))  # Without those that paint the same again.
        for rest in (END, b"", SCANS):
            with pytest.raises(jpeg.StructureError, match="scans"):
                jpeg.ended(allowed + scan + rest)
    with pytest.raises(jpeg.StructureError, match="segments"):
        jpeg.ended(begin + scan + b"\xff\xfe\0\2" * jpeg.MAX_SEGMENTS)


def test_the_end_is_looked_for_across_windows() -> None:
    """However much data a scan has, its end is found, at even and at odd places."""
    begin = JPEGS["L progressive"]
    begin = begin[: begin.find(b"\xff\xda")] + b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    for size in (4094, 4095, 4096, 4097, (1 << 20) + 5, 3 << 20):
        content = begin + b"\xff\0" + b"\1" * size + END
        assert jpeg.ended(content + FILM) == content + FILM
        assert jpeg.ended(content[:-2]) == content


@pytest.mark.parametrize("content", [JPEGS["RGB"] + FILM, JPEGS["RGB"][:-2] + FILM, JPEGS["RGB"][:-2]])
def test_both_ends_read_the_same(server: RunningServer, tmp_path: Path, content: bytes) -> None:
    """Whole in a message, as an upload and in a session, the picture is the same as what the client draws upon."""
    path = tmp_path / "panorama.jpg"
    path.write_bytes(content)
    with Client(server.address) as client:
        plain = client.segment_box(JPEGS["RGB"], (4, 4, 90, 90))
        results = [client.segment_box(picture, (4, 4, 90, 90)) for picture in (path, client.upload(path))]
        with client.session(path) as session:
            results.append(session.box((4, 4, 90, 90)))
    for result in results:
        assert result.image == plain.image
        assert result.overlay().tobytes() == plain.overlay().tobytes()
