"""Spans by OpenTelemetry (extra `otel`), exported by OTLP over gRPC. Imported only where traces are configured."""

import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cutout_common.distribution import build
from cutout_common.traces import HEADER, Span

# A session may have any number of prompts.
MAX_PARTS = 1000
EXPORT_S = 5.0
_CONTEXT = TraceContextTextMapPropagator()


def exporter(endpoint: str) -> SpanExporter:
    """What takes spans to their collector; tests put one in memory in its place."""
    return OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=EXPORT_S)


class OtelSpan:
    """See traces.Span."""

    def __init__(self, tracer: trace.Tracer, name: str, traceparent: str) -> None:
        above = _CONTEXT.extract({HEADER: traceparent})
        self._tracer = tracer
        self._span = tracer.start_span(name, above, SpanKind.SERVER)
        self._below = trace.set_span_in_context(self._span)
        self._parts = 0
        told: dict[str, str] = {}
        _CONTEXT.inject(told, self._below)
        self.traceparent = told[HEADER]

    def part(self, name: str, began_s: float, ended_s: float, **attributes: str) -> None:
        """See traces.Span."""
        self._parts += 1
        if self._parts > MAX_PARTS:
            return
        epoch_s = time.time() - time.monotonic()
        began_ns, ended_ns = (int((epoch_s + each_s) * 1e9) for each_s in (began_s, ended_s))
        self._tracer.start_span(name, self._below, attributes=attributes, start_time=began_ns).end(ended_ns)

    def end(self, failure: str = "", **attributes: str | int) -> None:
        """See traces.Span."""
        self._span.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})
        if self._parts > MAX_PARTS:
            self._span.set_attribute("cutout.parts_left_out", self._parts - MAX_PARTS)
        if failure:
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


class OtelTracer:
    """See traces.Tracer. Spans are exported by a thread, beside the work."""

    def __init__(self, service: str, endpoint: str, share: float) -> None:
        resource = Resource.create({"service.name": service, "service.version": build()["version"]})
        self._provider = TracerProvider(ParentBased(TraceIdRatioBased(share)), resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter(endpoint)))
        self._tracer = self._provider.get_tracer(service)

    def begin(self, name: str, traceparent: str) -> Span:
        """See traces.Tracer."""
        return OtelSpan(self._tracer, name, traceparent)

    def close(self) -> None:
        """See traces.Tracer."""
        self._provider.shutdown()
