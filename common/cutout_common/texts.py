"""Texts of any length and content, made to fit."""

from collections.abc import Callable
from urllib.parse import quote

_GAP = "..."
# What https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md (Status-Message) sends as it is.
_UNESCAPED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def utf8_bytes(text: str) -> int:
    """Bytes in UTF-8; a lone surrogate, which has none, counts as the question mark that `shorten` makes of it."""
    return len(text.encode(errors="replace"))


def escaped_bytes(text: str) -> int:
    """Bytes of a text that is percent-encoded, as gRPC sends a status's message."""
    return len(quote(text, safe=_UNESCAPED, errors="replace"))


def shorten(text: str, most: int, size: Callable[[str], int] = utf8_bytes) -> str:
    """A text of at most `most` bytes: one that is longer loses its middle, as what was expected tends to come last.

    Args:
        text: Anything, megabytes of what a caller sent among it.
        most: The bound, at least 16.
        size: How a text's bytes are counted.

    Returns:
        Text that UTF-8 can write; no character is cut in two.
    """
    # The work is bounded, too: of a long text only the ends are ever looked at.
    text = text if len(text) <= 2 * most else text[:most] + text[-most:]
    data = text.encode(errors="replace")
    room = min(most, len(data))
    short = data.decode() if len(data) == room else _ends(data, room)
    while size(short) > most:
        room = room * 9 // 10
        short = _ends(data, room)
    return short


def _ends(data: bytes, room: int) -> str:
    """The beginning and, half as long, the end of a text; characters that the cuts hit are left out."""
    tail = (room - len(_GAP)) // 3
    head = room - len(_GAP) - tail
    return data[:head].decode(errors="ignore") + _GAP + data[len(data) - tail :].decode(errors="ignore")
