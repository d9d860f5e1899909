"""Formats of pictures, told from the first bytes of a file; and names of many others, so that refusals can say."""

# Media types by Pillow's name of the format.
CONTENT_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}
# What else their files are called: endings in lower case.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".hif")
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_Signatures = tuple[tuple[bytes, str], ...]
_READ: _Signatures = (
    (b"\xff\xd8\xff", "JPEG"),
    (PNG_SIGNATURE, "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_OTHERS: _Signatures = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"IIU\0", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"MMOR", "camera raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "camera raw"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"\0MRM", "camera raw"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "ICO"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DDS"),
    (b"P1", "Netpbm"),
    (b"P2", "Netpbm"),
    (b"P3", "Netpbm"),
    (b"P4", "Netpbm"),
    (b"P5", "Netpbm"),
    (b"P6", "Netpbm"),
    (b"\x1aE\xdf\xa3", "video"),  # Matroska, WebM
    (b"FLV\1", "video"),
    (b"\0\0\1\xba", "video"),  # MPEG
    (b"PK\3\4", "ZIP"),
    (b"\x1f\x8b", "gzip"),
)
_BRANDS = {
    "HEIC": frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")),
    "AVIF": frozenset((b"avif", b"avis")),
    "camera raw": frozenset((b"crx ",)),
}
_HEIF_BRANDS = frozenset((b"mif1", b"msf1"))
_FILM_ATOMS = frozenset((b"moov", b"mdat", b"wide"))  # QuickTime's, from before files said what they are.
_MARKUP_BYTES = 1024


def identify(content: bytes) -> str:
    """Pillow's name of the format if it is among CONTENT_TYPES, else an empty string."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    return {"HEIC": "HEIF", "AVIF": "AVIF"}.get(_branded(content)) or _first(content, _READ)


def name_other(content: bytes) -> str:
    """What people call a file that `identify` does not know, or an empty string."""
    if content.startswith(b"RIFF") and content[8:12] == b"AVI ":
        return "video"
    if content[4:8] in _FILM_ATOMS:
        return "video"
    if branded := _branded(content):
        return branded
    head = content[:_MARKUP_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<"):
        return "SVG" if b"<svg" in head else "HTML" if b"<html" in head or b"<!doctype html" in head else "XML"
    return _first(content, _OTHERS)


def _first(content: bytes, signatures: _Signatures) -> str:
    return next((name for signature, name in signatures if content.startswith(signature)), "")


def _branded(content: bytes) -> str:
    """What a file in the ISO base media format calls itself (ISO/IEC 14496-12, section 4.3); empty for others."""
    if content[4:8] != b"ftyp" or len(content) < 12:
        return ""
    end = min(int.from_bytes(content[:4], "big"), 256)
    brands = [content[8:12], *(content[at : at + 4] for at in range(16, end - 3, 4))]
    # Pictures of either kind may put the name that is common to both first.
    known = (name for brand in brands for name, of in _BRANDS.items() if brand in of)
    return next(known, "HEIF" if brands[0] in _HEIF_BRANDS else "video")
