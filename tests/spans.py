"""A collector of spans, as OTLP has it over gRPC."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Received:
    """A span that was exported.

    Attributes:
        service: Whose it is.
        trace: Hexadecimal, as are the next two.
        above: Of the span that it is below.
    """

    service: str
    name: str
    trace: str
    span: str
    above: str


@contextmanager
def collected() -> Iterator[tuple[str, list[Received]]]:
    """Where one listens, and what it has received."""
    received: list[Received] = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 - OTLP's own name
            for each in request.resource_spans:
                (service,) = (one.value.string_value for one in each.resource.attributes if one.key == "service.name")
                for span in (span for scope in each.scope_spans for span in scope.spans):
                    ids = (value.hex() for value in (span.trace_id, span.span_id, span.parent_span_id))
                    received.append(Received(service, span.name, *ids))
            return trace_service_pb2.ExportTraceServiceResponse()

    collector = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    try:
        yield f"http://127.0.0.1:{port}", received
    finally:
        collector.stop(None)
