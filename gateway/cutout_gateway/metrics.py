"""Prometheus metrics of the gateway. Every label has a bounded set of values: known methods, routes, statuses."""

from cutout_common import logs, traces
from cutout_common.allowance import Allowance
from cutout_common.distribution import build
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

PATH = "/metrics"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What the gateway's requests were, and how long they took."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        Info("cutout_build", "Version and commit of the code.", registry=registry).info(build())
        labels = ("method", "route")
        self._requests = Counter(
            "cutout_gateway_requests", "HTTP requests that ended.", (*labels, "status"), registry=registry
        )
        self._seconds = Histogram(
            "cutout_gateway_request_seconds",
            "Time to the end of the answer.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self._received = Counter(
            "cutout_gateway_received_bytes", "Bytes of the requests' bodies.", labels, registry=registry
        )
        self._sent = Counter("cutout_gateway_sent_bytes", "Bytes of the answers' bodies.", labels, registry=registry)
        self.in_hand = Gauge("cutout_gateway_requests_in_hand", "HTTP requests under way.", registry=registry)
        self._bytes = Gauge(
            "cutout_gateway_bytes_in_hand", "Bytes of bodies and answers that are held.", ("what",), registry=registry
        )
        Gauge(
            "cutout_gateway_log_lines_dropped", "Log lines left out, as nobody read them.", registry=registry
        ).set_function(logs.dropped)

    def bytes_in_hand(self, what: str, allowance: Allowance) -> None:
        """Adds bytes that are bounded, read at each scrape."""
        self._bytes.labels(what).set_function(lambda: allowance.in_use)

    def finished(
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int, traceparent: str
    ) -> None:
        """Counts a request.

        Args:
            method: As the client sent it.
            route: Template of the route; empty for a path that there is not.
            status: HTTP status; 499 when the client left before one was sent.
            seconds: From its headers to the end of its answer.
            received: Bytes of its body.
            sent: Bytes of the answer's body.
            traceparent: Of its span, or its client's.
        """
        labels = (method if method in METHODS else "other", route or "none")
        self._requests.labels(*labels, str(status)).inc()
        trace_id = traces.sampled_id(traceparent)
        self._seconds.labels(*labels).observe(seconds, {"trace_id": trace_id} if trace_id else None)
        self._received.labels(*labels).inc(received)
        self._sent.labels(*labels).inc(sent)

    async def page(self, request: Request) -> Response:
        """What Prometheus scrapes; exemplars with it where OpenMetrics is asked for."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.registry), headers={"content-type": content_type})
