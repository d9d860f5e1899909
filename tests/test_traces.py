"""Traces: one from REST to each stage of the server, told in logs and exemplars, and nothing of it while it is off."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from conftest import Photo, RunningServer, encode, run_server
from cutout_client import Client
from cutout_common import otel, traces
from cutout_common.config import ConfigError
from cutout_gateway.settings import GatewaySettings
from cutout_server.settings import Settings
from gateway_fixtures import GatewayThread
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from spans import collected
from waiting import PATIENCE_S, wait_until

from tools import free_port

BOX = {"xMin": 9, "yMin": 9, "xMax": 80, "yMax": 60}
TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{ABOVE}-01"
RPC = "cutout.v1.SegmentationService/SegmentByBox"


@dataclass
class Stack:
    """A server and a gateway that trace, and the spans that they exported."""

    server: RunningServer
    gateway: GatewayThread
    picture: bytes
    exporters: list[InMemorySpanExporter] = field(default_factory=list)

    def segment(self, traceparent: str) -> None:
        form = {"boxes": json.dumps(BOX)}
        url, headers = f"{self.gateway.url}/v1/segment:box", {"traceparent": traceparent}
        files = {"image.content": self.picture}
        assert httpx.post(url, headers=headers, data=form, files=files, timeout=PATIENCE_S).status_code == 200

    def spans(self, wanted: Callable[[ReadableSpan], bool]) -> list[ReadableSpan]:
        ended = [span for exporter in self.exporters for span in exporter.get_finished_spans()]
        return [span for span in ended if wanted(span)]


@pytest.fixture(scope="module")
def stack(photos: dict[str, Photo]) -> Iterator[Stack]:
    exporters: list[InMemorySpanExporter] = []

    def exporter(_: str) -> InMemorySpanExporter:
        exporters.append(InMemorySpanExporter())
        return exporters[-1]

    collector = "http://127.0.0.1:1"
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(otel, "exporter", exporter)
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
            server = running.enter_context(run_server(trace_endpoint=collector))
            settings = GatewaySettings(server_address=server.address, trace_endpoint=collector)
            gateway = running.enter_context(GatewayThread(settings))
        yield Stack(server, gateway, encode(photos["chelsea"].pixels[::4, ::4]), exporters)


def of_trace(number: int) -> Callable[[ReadableSpan], bool]:
    return lambda span: span.context.trace_id == number


def test_one_trace_from_rest_to_every_stage(stack: Stack):
    """The caller's own: the gateway's span below the caller's, the server's below it, and below that each stage."""
    stack.segment(TRACEPARENT)
    mine = of_trace(int(TRACE, 16))
    wait_until(lambda: {"POST", RPC} <= {span.name for span in stack.spans(mine)})
    (post,), (rpc,) = ([span for span in stack.spans(mine) if span.name == name] for name in ("POST", RPC))
    assert (post.parent.span_id, rpc.parent.span_id) == (int(ABOVE, 16), post.context.span_id)
    stages = sorted(
        (span for span in stack.spans(mine) if span not in (post, rpc)), key=lambda span: (span.start_time, span.name)
    )
    assert {span.name for span in stages} == {"queue", "decode", "encode", "prompt", "masks"}
    for stage in stages:
        assert stage.parent.span_id == rpc.context.span_id
        assert rpc.start_time - 10**7 <= stage.start_time <= stage.end_time <= rpc.end_time + 10**7
    encoded = next(span for span in stages if span.name == "encode")
    assert dict(encoded.attributes) == {"device": "cpu", "model": "builtin"}
    assert any(span.name == "queue" and span.end_time <= encoded.start_time + 10**7 for span in stages)
    assert post.attributes["http.route"] == "/v1/segment:box"
    assert rpc.attributes["rpc.grpc.status_code"] == 0
    names = {span.resource.attributes["service.name"] for span in (post, rpc)}
    assert names == {"cutout-gateway", "cutout-server"}


def test_who_brings_no_trace_begins_one(stack: Stack):
    """Also by a header that cannot be read; refusals are spans with their reasons, and no faults of the server."""
    url, body = f"{stack.gateway.url}/v1/segment:box", {"image": {"content": ""}, "boxes": [BOX]}
    headers = {"x-request-id": "mine", "traceparent": "00-no-trace-01"}
    assert httpx.post(url, headers=headers, json=body, timeout=PATIENCE_S).status_code == 400

    def asked(span: ReadableSpan) -> bool:
        return (span.attributes or {}).get("cutout.request_id") == "mine"

    both = wait_until(lambda: len(found := stack.spans(asked)) == 2 and found)
    assert len({span.context.trace_id for span in both}) == 1
    assert all(span.status.is_unset for span in both)
    assert {span.attributes.get("cutout.reason") for span in both} == {None, "INVALID_ARGUMENT"}


def test_the_client_goes_on_with_its_applications_trace(stack: Stack):
    """Where the application uses OpenTelemetry; what the server does is below the application's span."""
    tracer = TracerProvider().get_tracer("application")
    with Client(stack.server.address) as client, tracer.start_as_current_span("work") as work:
        client.models()
    above = work.get_span_context()
    mine = of_trace(above.trace_id)
    (below,) = wait_until(lambda: [span for span in stack.spans(mine) if span.name.endswith("/ListModels")])
    assert below.parent.span_id == above.span_id


def test_histograms_lead_to_traces(stack: Stack):
    """The exemplars of both, where OpenMetrics is asked for, name the trace; plain text has none."""
    trace = "a" * 32
    stack.segment(f"00-{trace}-{ABOVE}-01")
    for url, histogram in (
        (stack.server.metrics_url, "grpc_server_handling_seconds_bucket"),
        (f"{stack.gateway.url}/metrics", "cutout_gateway_request_seconds_bucket"),
    ):

        def lines(accept: str, url: str = url, histogram: str = histogram) -> list[str]:
            text = httpx.get(url, headers={"accept": accept}, timeout=PATIENCE_S).text
            return [line for line in text.splitlines() if line.startswith(histogram) and trace in line]

        assert wait_until(lambda lines=lines: lines("application/openmetrics-text; version=1.0.0"))
        assert not lines("text/plain")


def test_spans_are_exported_by_otlp():
    """To the endpoint of the settings; what is left goes with the server's end."""
    with collected() as (endpoint, received):
        with run_server(trace_endpoint=endpoint) as server, Client(server.address) as client:
            client.models()
        assert "cutout.v1.ModelService/ListModels" in {span.name for span in received}


PROGRAM = """
import sys, {module}.__main__ as program
try:
    program.main(sys.argv[1:])
finally:
    sys.stdout.write(str([name for name in sys.modules if name.startswith("opentelemetry")]))
"""


@contextmanager
def running(module: str, *flags: str) -> Iterator[tuple[list[dict[str, object]], subprocess.Popen[str]]]:
    """A program whose log lines are read, and which tells at its end what it imported of OpenTelemetry."""
    command = [sys.executable, "-c", PROGRAM.format(module=module), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: list[dict[str, object]] = []
    reader = threading.Thread(target=lambda: lines.extend(json.loads(line) for line in process.stderr))
    reader.start()
    try:
        yield lines, process
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        reader.join()
        process.stdout.close()
        process.stderr.close()


def test_off_it_costs_nothing_and_logs_tell_the_callers_trace():
    """Neither program imports OpenTelemetry; both write the id of the trace that a caller brought, and pass it on."""
    port, http = free_port(), free_port()
    server = running("cutout_server", f"--port={port}", "--metrics-port=-1")
    gateway = running("cutout_gateway", f"--port={http}", f"--server-address=127.0.0.1:{port}")
    with server as (server_log, server_process), gateway as (gateway_log, gateway_process):

        def answered() -> bool:
            try:
                headers = {"traceparent": TRACEPARENT}
                return httpx.get(f"http://127.0.0.1:{http}/v1/models", headers=headers, timeout=PATIENCE_S).is_success
            except httpx.TransportError:
                return False

        wait_until(answered)
        for process in (server_process, gateway_process):
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == "[]"
    for log, event in (server_log, "call"), (gateway_log, "request"):
        told = [line for line in log if line["event"] == event]
        assert told
        assert {line["trace_id"] for line in told} == {TRACE}


def test_settings_that_cannot_be_used():
    """An endpoint that is none, and an installation without the extra, are told at the start."""
    for settings in Settings, GatewaySettings:
        for endpoint in ("collector:4317", "http://", "http://collector:4317/v1/traces"):
            with pytest.raises(ConfigError, match=r"trace_endpoint: .*http://host:port"):
                settings.load([f"--trace-endpoint={endpoint}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cutout_common.otel", None)
        with pytest.raises(ConfigError, match=r"pip install 'cutout-service\[otel\]'"):
            traces.tracer_of("any", "http://127.0.0.1:1", 1.0)


@pytest.mark.parametrize(
    ("traceparent", "trace_id", "sampled"),
    [
        (TRACEPARENT, TRACE, True),
        (f"00-{TRACE}-{ABOVE}-00", TRACE, False),
        (f"cc-{TRACE}-{ABOVE}-03-of-the-future", TRACE, True),
        (f"ff-{TRACE}-{ABOVE}-01", "", False),
        (f"00-{'0' * 32}-{ABOVE}-01", "", False),
        (f"00-{TRACE}-{'0' * 16}-01", "", False),
        (f"00-{TRACE.upper()}-{ABOVE}-01", "", False),
        ("", "", False),
    ],
)
def test_what_traceparent_tells(traceparent: str, trace_id: str, sampled: bool):
    """As W3C's Trace Context has it."""
    assert traces.trace_id(traceparent) == trace_id
    assert traces.sampled_id(traceparent) == (trace_id if sampled else "")
