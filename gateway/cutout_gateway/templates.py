"""Path templates of google.api.http: parsing, matching, percent-decoding.

The grammar is the one in google/api/http.proto:

    Template = "/" Segments [ Verb ] ;
    Segments = Segment { "/" Segment } ;
    Segment  = "*" | "**" | LITERAL | Variable ;
    Variable = "{" FieldPath [ "=" Segments ] "}" ;
    FieldPath = IDENT { "." IDENT } ;
    Verb     = ":" LITERAL ;
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

_FIELD_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LITERAL = re.compile(r"[^{}*/?#\s]+")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPED_SLASH = re.compile(r"(%2[Ff])")


class TemplateError(ValueError):
    """A path template does not follow the grammar."""


class EncodingError(ValueError):
    """A percent-encoded text is malformed, or is not UTF-8 when decoded."""


@dataclass(frozen=True)
class Variable:
    """A part of the path that is a field: segments `start` to `end` (exclusive; None means all that follow)."""

    field_path: str
    start: int
    end: int | None
    multi: bool


@dataclass(frozen=True)
class Template:
    """A parsed path template.

    Attributes:
        text: As it was written.
        segments: `*`, `**` (only the last), or a literal, decoded.
        verb: What follows the colon, decoded; empty when there is none.
        variables: In the order of the path.
    """

    text: str
    segments: tuple[str, ...]
    verb: str
    variables: tuple[Variable, ...]

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts the more specific template first: a literal before `*` before `**`, from left to right."""
        return tuple({"*": 1, "**": 2}.get(segment, 0) for segment in self.segments)

    def match(self, path: str) -> dict[str, str] | None:
        """Matches a path as it came, still percent-encoded.

        Returns:
            The decoded text of each variable by its field path, or None when the path is another's.

        Raises:
            EncodingError: The path is this template's, but a variable in it cannot be decoded.
        """
        if self.verb:
            path, _, verb = path.rpartition(":")
            if "/" in verb or unquote(verb) != self.verb:
                return None
        parts = path.split("/")[1:]
        if not self._fits(parts):
            return None
        return {v.field_path: _decode_segments(parts[v.start : v.end], multi=v.multi) for v in self.variables}

    def _fits(self, parts: list[str]) -> bool:
        fixed = self.segments
        if fixed[-1] == "**":
            fixed = fixed[:-1]
            if len(parts) < len(fixed):
                return False
        elif len(parts) != len(fixed):
            return False
        return all(bool(p) if s == "*" else unquote(p) == s for s, p in zip(fixed, parts, strict=False))


def parse(text: str) -> Template:
    """Parses a path template.

    Raises:
        TemplateError: It does not follow the grammar.
    """
    if not text.startswith("/"):
        raise TemplateError(f"{text}: must start with '/'")
    body, verb = _split_verb(text)
    segments: list[str] = []
    variables: list[Variable] = []
    for piece in re.findall(r"\{[^}]*\}[^/]*|[^/]+|(?<=/)(?=/|$)", body[1:]) or [""]:
        if not piece.startswith("{"):
            segments.append(_segment(text, piece))
            continue
        field_path, _, sub = piece[1:-1].partition("=")
        if not piece.endswith("}") or not _FIELD_PATH.fullmatch(field_path):
            raise TemplateError(f"{text}: {piece!r} is not a variable")
        parts = [_segment(text, part) for part in (sub if "=" in piece else "*").split("/")]
        start = len(segments)
        segments += parts
        endless = parts[-1] == "**"
        variables.append(Variable(field_path, start, None if endless else len(segments), endless or len(parts) > 1))
    if "**" in segments[:-1]:
        raise TemplateError(f"{text}: '**' must be the last segment")
    if len({v.field_path for v in variables}) != len(variables):
        raise TemplateError(f"{text}: a variable appears twice")
    return Template(text, tuple(segments), verb, tuple(variables))


def decode(text: str) -> str:
    """Decodes percent-encoded UTF-8.

    Raises:
        EncodingError: An escape is malformed, or the bytes are not UTF-8.
    """
    if _BROKEN_ESCAPE.search(text):
        raise EncodingError(f"{text!r} has a malformed percent-escape")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise EncodingError(f"{text!r} is not percent-encoded UTF-8") from error


def _decode_segments(parts: list[str], *, multi: bool) -> str:
    if not multi:
        return decode(parts[0])
    # An encoded slash stays as it is, so that it differs from the slashes between the segments.
    pieces = _ESCAPED_SLASH.split("/".join(parts))
    return "".join(piece if _ESCAPED_SLASH.fullmatch(piece) else decode(piece) for piece in pieces)


def _split_verb(text: str) -> tuple[str, str]:
    before, colon, verb = text.rpartition(":")
    if not colon or "/" in verb or "}" in verb:
        return text, ""
    if not _LITERAL.fullmatch(verb):
        raise TemplateError(f"{text}: {verb!r} is not a verb")
    return before, unquote(verb)


def _segment(text: str, piece: str) -> str:
    if piece in {"*", "**"}:
        return piece
    if not _LITERAL.fullmatch(piece):
        raise TemplateError(f"{text}: {piece!r} is neither '*', '**', a literal nor a variable")
    return unquote(piece)
