"""What a phrase is: where an entry of several is cut, and which phrases read alike. The contract tells both rules."""

import re
import unicodedata

MAX_PHRASE_LENGTH = 256  # Characters, of callers' phrases and of a language model's.

_ALONE = re.compile(r"(?<!\S)\.(?!\S)")
_ENDING = re.compile(r"\.(?:\s+|$)")


def split(entry: str) -> list[str]:
    """The phrases of an entry: one, unless the entry is a list."""
    entry = entry.strip()
    parts = [entry]
    if _ALONE.search(entry):
        *parts, last = _ALONE.split(entry)
        parts.append(last.removesuffix("."))
    elif entry.endswith("."):
        parts = _ENDING.split(entry)
    return [phrase for part in parts if (phrase := part.strip())]


def reading(phrase: str) -> str:
    """Equal for phrases that read alike, whatever their case, blanks and closing punctuation."""
    words = " ".join(unicodedata.normalize("NFKC", phrase).casefold().split())
    return words.rstrip(" .,;:!?") or words
