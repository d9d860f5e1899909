"""Traces across services, off unless an endpoint for them is configured; OpenTelemetry is not imported before.

W3C's Trace Context says in the header, or metadata, `traceparent` which trace a request belongs to. Whether we trace or
not, it is passed on and its id is in the logs.
"""

import importlib
import re
from typing import Protocol
from urllib.parse import urlsplit

from cutout_common.config import ConfigError
from cutout_common.distribution import install_hint

HEADER = "traceparent"
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Span(Protocol):
    """One request's part of a trace.

    Attributes:
        traceparent: What whoever is asked next is told.
    """

    traceparent: str

    def part(self, name: str, began_s: float, ended_s: float, **attributes: str) -> None:
        """Tells of a stage of it; times are those of time.monotonic."""

    def end(self, failure: str = "", **attributes: str | int) -> None:
        """It is over; `failure` says how, if it is the service's fault."""


class Tracer(Protocol):
    """Begins spans, and gives those that ended to whoever collects them."""

    def begin(self, name: str, traceparent: str) -> Span:
        """A span below the caller's, or of a new trace where that is not told."""
        ...

    def close(self) -> None:
        """Hands over what is left; blocks for seconds at most."""


class Untraced:
    """The span of a request that is not traced here: the caller's own is passed on."""

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def part(self, name: str, began_s: float, ended_s: float, **attributes: str) -> None:
        """Nothing."""

    def end(self, failure: str = "", **attributes: str | int) -> None:
        """Nothing."""


class NoTracer:
    """Traces nothing."""

    def begin(self, name: str, traceparent: str) -> Span:
        """The caller's, passed on."""
        del name
        return Untraced(traceparent)

    def close(self) -> None:
        """Nothing is left."""


def tracer_of(service: str, endpoint: str, share: float) -> Tracer:
    """What traces a service.

    Args:
        service: Its name.
        endpoint: Where OTLP is spoken over gRPC; empty for no tracing.
        share: Of the requests that bring no trace, how many are traced.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if not endpoint:
        return NoTracer()
    try:
        tracer: Tracer = importlib.import_module("cutout_common.otel").OtelTracer(service, endpoint, share)
    except ModuleNotFoundError as error:
        raise ConfigError(f"trace_endpoint: needs OpenTelemetry; {install_hint('otel')}") from error
    return tracer


def check_endpoint(endpoint: str) -> str:
    """An endpoint as it is.

    Raises:
        ValueError: It is none.
    """
    parts = urlsplit(endpoint)
    if endpoint and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}):
        raise ValueError("expected http://host:port or https://host:port, of a collector that speaks OTLP over gRPC")
    return endpoint


def trace_id(traceparent: str) -> str:
    """The trace's id, 32 hex digits; empty where none is told."""
    match = _FORM.fullmatch(traceparent)
    return match[1] if match else ""


def sampled_id(traceparent: str) -> str:
    """The same of a trace that is kept by who began it; empty for others."""
    match = _FORM.fullmatch(traceparent)
    return match[1] if match and int(match[3], 16) & 1 else ""
