"""HTTP headers <-> gRPC metadata."""

import base64
import binascii
import re
from collections.abc import Iterable

from cutout_common import channels, forwarded, request_ids, routing, traces
from starlette.datastructures import Headers

from cutout_gateway.errors import DETAILS_KEY, invalid

PREFIX = "grpc-metadata-"
RESERVED = frozenset(
    {
        "connection",
        "content-type",
        "host",
        "te",
        "transfer-encoding",
        "user-agent",
        request_ids.HEADER,
        forwarded.X_FORWARDED_FOR,
        forwarded.FORWARDED,
        routing.KEY,
    }
)
PASSED = ("authorization", "x-api-key", "tracestate")

_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_YEAR_S = 365 * 86400.0
_NAME = re.compile(r"[a-z0-9_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")

Metadata = list[tuple[str, str | bytes]]


def request_id(headers: Headers) -> str:
    """The caller's own id when it can be used as one, a new one otherwise."""
    return request_ids.usable_or_new(headers.get(request_ids.HEADER, ""))


def timeout_s(headers: Headers, default_s: float) -> float:
    """Seconds that the call may take: `Grpc-Timeout` in gRPC's own notation (`1500m` is 1.5 s), or the default.

    Raises:
        HttpError: 400 when the header is malformed.
    """
    text = headers.get("grpc-timeout")
    if text is None:
        return default_s
    match = _TIMEOUT.fullmatch(text)
    if not match:
        raise invalid("Grpc-Timeout", f"expected up to 8 digits and one of H M S m u n, got {text!r}")
    # A call that has to end at this instant may still win; grpc.aio takes a deadline too far away for one in the past.
    return min(int(match[1]) * _SECONDS[match[2]], _YEAR_S) or -1.0


def late(headers: Headers, default_s: float) -> str:
    """What to say when that time is up."""
    if text := headers.get("grpc-timeout"):
        return f"no answer came within the {text} of Grpc-Timeout"
    return f"no answer came within {default_s:g} s, the time of requests without Grpc-Timeout"


def to_metadata(headers: Headers, call_id: str, client: str, traceparent: str) -> Metadata:
    """What the server is told: credentials, trace, request id, the caller's address, and every `Grpc-Metadata-*`.

    Raises:
        HttpError: 400 when a header cannot be metadata.
    """
    metadata: Metadata = [(request_ids.HEADER, call_id)]
    if client:
        metadata.append((forwarded.X_FORWARDED_FOR, client))
    if traceparent:
        metadata.append((traces.HEADER, _checked(traces.HEADER, traceparent)))
    for name, value in headers.items():
        if name in PASSED:
            metadata.append((name, _checked(name, value)))
        elif name.startswith(PREFIX):
            metadata.append(_custom(name, value))
    return metadata


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, str]]:
    """Headers of the answer: every entry as `Grpc-Metadata-*`, binary ones in base64.

    The request id is left out, which has a header of its own, and so are gRPC's own entries.
    """
    headers: list[tuple[str, str]] = []
    for key, value in metadata:
        if key in {request_ids.HEADER, DETAILS_KEY, channels.ASK_FIRST[0]} or key.startswith(("grpc-", ":")):
            continue
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        headers.append((f"{PREFIX}{key}", text))
    return headers


def _custom(name: str, value: str) -> tuple[str, str | bytes]:
    key = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(key) or key.startswith("grpc-") or key in RESERVED:
        raise invalid(name, "cannot be metadata")
    if not key.endswith("-bin"):
        return key, _checked(name, value)
    try:
        return key, base64.b64decode(value, validate=True)
    except binascii.Error:
        raise invalid(name, "expected base64, as metadata whose name ends in -bin is binary") from None


def _checked(name: str, value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise invalid(name, "expected printable ASCII")
    return value
