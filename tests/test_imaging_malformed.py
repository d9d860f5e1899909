"""Whatever bytes come in, a picture or an InvalidRequestError comes out, soon."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pillow_heif
import pytest
import skimage.data
from cutout_common.formats import CONTENT_TYPES, identify
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.decode import ImageLimits, decode, probe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from waiting import at_little_cost

LIMITS = ImageLimits(max_bytes=40 << 20, max_pixels=1_000_000)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

pillow_heif.register_heif_opener()  # For writing; the server reads them without.
SMALL = Image.fromarray(skimage.data.chelsea()).resize((60, 40))
SIGNATURES = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\1\0WEBPVP8 ", b"BM", b"II*\0", b"MM\0+", b"GIF89a"]


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


class Files(Mapping[str, bytes]):
    """Files by their names, each made when it is first asked for: some take long, or much memory."""

    def __init__(self, makers: dict[str, Callable[[], bytes]]) -> None:
        self._makers = makers
        self._made: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def with_exif(file_format, **options):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(SMALL, file_format, exif=exif, **options)


FILES = Files(
    {
        "jpeg": lambda: with_exif("JPEG"),
        "progressive jpeg": lambda: encode(SMALL, "JPEG", progressive=True),
        "cmyk jpeg": lambda: encode(SMALL.convert("CMYK"), "JPEG"),
        "png": lambda: with_exif("PNG"),
        "palette png": lambda: encode(SMALL.convert("P"), "PNG", transparency=3),
        "16-bit png": lambda: encode(Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60)), "PNG"),
        "webp": lambda: with_exif("WEBP"),
        "lossless webp": lambda: encode(SMALL.convert("RGBA"), "WEBP", lossless=True),
        "animated webp": lambda: encode(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(9)]),
        "bmp": lambda: encode(SMALL, "BMP"),
        "palette bmp": lambda: encode(SMALL.convert("P"), "BMP"),
        "tiff": lambda: encode(SMALL, "TIFF"),
        "lzw tiff": lambda: encode(SMALL, "TIFF", compression="tiff_lzw"),
        "fax tiff": lambda: encode(SMALL.convert("1"), "TIFF", compression="group4"),
        "jpeg tiff": lambda: encode(SMALL, "TIFF", compression="jpeg"),
        "gif": lambda: encode(SMALL, "GIF"),
        "heic": lambda: encode(SMALL, "HEIF"),
        "heic of tiles": lambda: encode(SMALL, "HEIF", tile_size=32),
        "avif": lambda: with_exif("AVIF"),
        "animated avif": lambda: encode(SMALL, "AVIF", save_all=True, append_images=[SMALL.rotate(9)]),
        "animated gif": lambda: encode(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(9)]),
    }
)


def outcome(content):
    """None for a picture, else the reason of the refusal."""
    refusal = None
    with at_little_cost():
        try:
            header = probe(content, LIMITS)
            picture = decode(content, LIMITS)
        except InvalidRequestError as error:
            refusal = error
    if refusal is None:
        assert (header.height, header.width, 3) == picture.pixels.shape
        assert header.height * header.width <= LIMITS.max_pixels
        return None
    assert [violation.field for violation in refusal.violations] == ["image.content"]
    return refusal.reason


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(**changes):
    """An 8-bit grey TIFF of one strip, with some of its tags changed to (count, value)."""
    tags = {256: (1, 4), 257: (1, 4), 258: (1, 8), 259: (1, 1), 262: (1, 1), 273: (1, 140), 277: (1, 1), 278: (1, 4)}
    tags |= {279: (1, 16)} | {int(tag[1:]): value for tag, value in changes.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, *value) for tag, value in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries).ljust(140, b"\0") + bytes(16)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused_or_whole(name):
    """Cut anywhere, no file brings anything but a refusal; the first half never makes a picture."""
    content = FILES[name]
    assert outcome(content) is None
    # Frames behind the first may be missing.
    first_frame = len(content) // 3 if "animated" in name else len(content) // 2
    for size in {*range(min(len(content), 64)), *range(64, len(content), len(content) // 40 + 1)}:
        reason = outcome(content[:size])
        assert size > first_frame or reason in ("IMAGE_DAMAGED", "IMAGE_EMPTY", "IMAGE_FORMAT_UNKNOWN"), size


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_never_get_past_the_decoder(name):
    """Damage anywhere gives a picture within the limits or a refusal."""
    chance = random.Random(name)  # noqa: S311
    content = FILES[name]
    for _ in range(80):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 1, 3, 20))):
            # Headers more often than pixels.
            at = chance.randrange(min(len(content), 200) if chance.random() < 0.7 else len(content))
            damaged[at] = chance.choice((0, 0xFF, damaged[at] ^ 1 << chance.randrange(8)))
        outcome(bytes(damaged))


@pytest.mark.parametrize("signature", SIGNATURES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300))
def test_noise_behind_a_signature_is_survived(signature, body):
    """A file that begins well and goes on badly is refused like any other."""
    outcome(signature + body)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=100))
def test_noise_is_refused(content):
    """Bytes without any signature never reach a decoder."""
    assert outcome(content) is not None


OTHERS = {
    "SVG": [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<SVG/>"],
    "HTML": [b"\n<!DOCTYPE html><title>Not found</title>", b"<HTML></HTML>"],
    "PDF": [b"%PDF-1.7"],
    "PostScript": [b"%!PS-Adobe-3.0 EPSF-3.0"],
    "ICO": [encode(SMALL, "ICO")],
    "Netpbm": [encode(SMALL, "PPM"), encode(SMALL.convert("L"), "PPM")],
    "DDS": [encode(SMALL, "DDS")],
    "HEIF": [b"\0\0\0\x18ftypmif1\0\0\0\0mif1j2ki"],
    "JPEG XL": [b"\xff\x0a\xfa\x1f", b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"],
    "JPEG 2000": [encode(SMALL, "JPEG2000"), encode(SMALL, "JPEG2000", no_jp2=True)],
    "camera raw": [
        encode(SMALL, "TIFF", tiffinfo={50706: b"\1\4\0\0"}),  # DNG
        encode(SMALL, "TIFF", tiffinfo={254: 1, 330: 8, 271: "a camera"}),
        b"II*\0\x10\0\0\0CR\2\0\0\0\0\0" + tiff()[8:140].ljust(132, b"\0") + bytes(24),
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
    ],
    "video": [
        b"\0\0\0\x18ftypisom\0\0\2\0isommp41",
        b"\0\0\0\x14ftypqt  \0\0\2\0qt  ",
        b"\0\0\0\x08wide\0\0\0\0mdat",
        b"\x1aE\xdf\xa3\x9fB\x86\x81",
        b"RIFF\0\0\1\0AVI LIST",
    ],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, files in OTHERS.items() for content in files])
def test_other_formats_are_refused_by_name(name, content):
    """The refusal calls the format by the name that people know, and says what is accepted."""
    assert outcome(content) == "IMAGE_FORMAT_UNSUPPORTED"
    expected = f"content: {name}, which is not read here; expected a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or HEIC file"
    with pytest.raises(InvalidRequestError, match=expected):
        decode(content, LIMITS)


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\0\0\0\x18fty", b"ftyp", b"RIFF\0\0\1\0WAVE"])
def test_what_nobody_knows_is_said_to_be_unknown(content):
    """With the bytes with which it begins."""
    assert outcome(content) == ("IMAGE_FORMAT_UNKNOWN" if content else "IMAGE_EMPTY")


def segment(marker, data):
    return b"\xff" + marker + struct.pack(">H", len(data) + 2) + data


PNG, JPEG, GIF = FILES["png"], FILES["jpeg"], FILES["gif"]
GIF_BODY = 13 + (3 << (GIF[10] & 7) + 1)
PROGRESSIVE = FILES["progressive jpeg"]
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") : -2]
BMP_RLE = b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 1000, 999, 1, 8, 1, 0, 1, 1, 0, 0) + bytes(1024)
HOSTILE = Files(
    {
        "PNG of 10^10 pixels": lambda: (
            PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)) + PNG[33:]
        ),
        "PNG without columns": lambda: (
            PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 7, 8, 2, 0, 0, 0)) + PNG[33:]
        ),
        "PNG larger than its data": lambda: (
            PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 999, 999, 8, 2, 0, 0, 0)) + PNG[33:]
        ),
        "PNG of a million chunks": lambda: PNG[:33] + chunk(b"abCd", b"") * 1_000_000 + PNG[33:],
        "PNG with a profile bomb": lambda: (
            PNG[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50 << 20))) + PNG[33:]
        ),
        "PNG with text bombs": lambda: (
            PNG[:33] + chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 20))) * 99 + PNG[33:]
        ),
        "PNG chunk beyond the end": lambda: PNG[:33] + struct.pack(">I4s", 2**31, b"tEXt") + PNG[33:],
        "JPEG of a million segments": lambda: JPEG[:2] + b"\xff\xe5\0\2" * 1_000_000 + JPEG[2:],
        "JPEG with junk": lambda: JPEG[:20] + bytes(10_000_000) + JPEG[20:],
        "JPEG with padding": lambda: JPEG[:2] + b"\xff" * 10_000_000 + JPEG[2:],
        "JPEG of a thousand parts of Exif": lambda: (
            JPEG[:2] + segment(b"\xe1", b"Exif\0\0" + bytes(60_000)) * 1000 + JPEG[2:]
        ),
        "JPEG of a million Photoshop resources": lambda: (
            JPEG[:2] + segment(b"\xed", b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\1a\0" * 4000) * 250 + JPEG[2:]
        ),
        "JPEG of a thousand scans": lambda: PROGRESSIVE[:-2] + LAST_SCAN * 1000 + b"\xff\xd9",
        "GIF with an endless comment": lambda: (
            GIF[:GIF_BODY] + b"!\xfe" + (b"\xff" + bytes(255)) * 100_000 + b"\0" + GIF[GIF_BODY:]
        ),
        "GIF with junk": lambda: GIF[:GIF_BODY] + b"\1" * 10_000_000 + GIF[GIF_BODY:],
        "GIF whose frame is larger than its screen": lambda: (
            GIF[:GIF_BODY] + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x08" + bytes(300)
        ),
        "BMP of 10^18 pixels": lambda: BMP_RLE[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + BMP_RLE[26:],
        "BMP upside down, without rows": lambda: BMP_RLE[:22] + struct.pack("<i", -(2**31)) + BMP_RLE[26:],
        "BMP with an endless run length": lambda: BMP_RLE + b"\0\0" * (8 << 20),
        "BMP with a short run length": lambda: BMP_RLE + b"\1\5" * 1000,
        "WebP of 2^28 pixels": lambda: FILES["lossless webp"][:21] + b"\xff\xff\xff\x0f" + FILES["lossless webp"][25:],
        "extended WebP of 2^48 pixels": lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6,
        "TIFF of 2^64 pixels": lambda: tiff(_256=(1, 2**32 - 1), _257=(1, 2**32 - 1)),
        "TIFF without rows": lambda: tiff(_257=(1, 0)),
        "TIFF larger than its strip": lambda: tiff(_256=(1, 999), _257=(1, 999), _278=(1, 999)),
        "TIFF strip beyond the end": lambda: tiff(_273=(1, 2**32 - 1)),
        "TIFF with 2^32 strips": lambda: tiff(_273=(2**32 - 1, 8)),
        "TIFF with a million strips": lambda: tiff(_273=(10**6, 140)) + bytes(4_000_000),
        "TIFF with a million bit depths": lambda: tiff(_258=(10**6, 140), _277=(1, 10**6)) + bytes(4_000_000),
        "TIFF whose directory is itself": lambda: b"II*\0" + struct.pack("<I", 4),
        "BigTIFF with 2^64 tags": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**64 - 1) + bytes(100),
    }
)


@pytest.mark.parametrize("name", HOSTILE)
def test_files_made_to_hurt_are_refused(name):
    """Bombs, lies and endless headers are refused before they cost anything."""
    assert outcome(HOSTILE[name]) in ("IMAGE_TOO_LARGE", "IMAGE_DAMAGED", "IMAGE_EMPTY")


def test_nothing_is_decoded_beyond_the_limits(monkeypatch):
    """Both bounds are named with what came, and no decoder has run by then."""
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    for name, content in FILES.items():
        with pytest.raises(InvalidRequestError, match=r"at most 2,399 pixels, got (60 x 40|40 x 60) = 2,400") as caught:
            decode(content, ImageLimits(max_bytes=1 << 20, max_pixels=2399))
        assert caught.value.reason == "IMAGE_TOO_LARGE", name
    with pytest.raises(InvalidRequestError, match=f"at most 100 bytes, got {len(PNG):,}") as caught:
        decode(PNG, ImageLimits(max_bytes=100, max_pixels=2400))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


def test_every_accepted_format_has_a_content_type_and_a_signature():
    """The table of types and what the first bytes tell agree."""
    assert {identify(content) for content in FILES.values()} == set(CONTENT_TYPES)
