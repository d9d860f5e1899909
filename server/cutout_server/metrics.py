"""Prometheus metrics: the standard gRPC server names, and what the pools, caches and pictures do.

Every label has a bounded set of values: methods of the contract, gRPC codes, reasons of our own errors, configured
callers, devices and models, operations of the model protocols, quotas.
"""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from cutout_common import logs, traces
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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cutout_server.call_context import ASKED, CallRecord, Rpc
from cutout_server.status import DeviceStatus, ServerStatus, State, StatusBoard

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
REFUSALS = frozenset(grpc.StatusCode) - {
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}

# Counters with these are there from the start: Prometheus sees no increase in a series that begins with 1.
GIVEN_UP = ("left", "time", "died")
DROPPED = ("deadline", "cancelled")

PER_CALLER = {
    "requests_in_hand": "Requests of a caller admitted and not finished.",
    "sessions": "Sessions of a caller that are open.",
    "stored_images": "Uploaded pictures of a caller.",
    "stored_bytes": "Their files.",
    "unfinished_uploads": "Uploads of a caller that still arrive.",
    "unfinished_upload_bytes": "What has arrived of them.",
}

PER_DEVICE: dict[str, tuple[str, Callable[[DeviceStatus], float]]] = {
    "cutout_requests_in_hand": ("Requests admitted and not finished.", lambda d: d.requests),
    "cutout_requests_capacity": ("The most that are admitted at once.", lambda d: d.capacity),
    "cutout_queue_depth": ("Jobs that wait.", lambda d: d.queued_jobs),
    "cutout_embeddings_cache_bytes": ("Embeddings held.", lambda d: d.embeddings.bytes),
    "cutout_embeddings_cache_capacity_bytes": ("Bound on them.", lambda d: d.embeddings.capacity_bytes),
    "cutout_device_memory_used_bytes": ("Memory in use of the GPU, or of this process.", lambda d: d.memory_used_bytes),
    "cutout_device_memory_total_bytes": ("Memory of the device.", lambda d: d.memory_total_bytes),
    "cutout_device_memory_budget_bytes": (
        "Bound on the memory of models and tracking; 0 is none.",
        lambda d: d.memory_budget_bytes,
    ),
    "cutout_device_model_bytes": ("Memory of the loaded models.", lambda d: sum(d.models.values())),
}
COUNTED_PER_DEVICE: dict[str, tuple[str, Callable[[DeviceStatus], float]]] = {
    "cutout_embeddings_cache_hits": ("Embeddings found.", lambda d: d.embeddings.hits),
    "cutout_embeddings_cache_misses": ("Embeddings that had to be made.", lambda d: d.embeddings.misses),
    "cutout_embeddings_cache_remade": ("Those of them that had left the cache for others.", lambda d: d.remade),
}


class Metrics:
    """Hears of calls, pools and pictures and counts them in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        Info("cutout_build", "Version and commit of the code.", registry=self.registry).info(build())
        self._started = self._counter("grpc_server_started", "RPCs that arrived.", RPC_LABELS)
        self._handled = self._counter("grpc_server_handled", "RPCs that ended.", (*RPC_LABELS, "grpc_code"))
        self._received = self._counter("grpc_server_msg_received", "Messages received.", RPC_LABELS)
        self._sent = self._counter("grpc_server_msg_sent", "Messages sent.", RPC_LABELS)
        self._handling = self._histogram("grpc_server_handling_seconds", "Time from arrival to end.", RPC_LABELS)
        self._stage = self._histogram("cutout_stage_seconds", "Time of each stage of a request.", ("stage",))
        self._refused = self._counter("cutout_requests_refused", "Calls refused.", ("reason",))
        self._requests = self._counter("cutout_caller_requests", "Calls of a caller that ended.", ("caller",))
        self._exceeded = self._counter(
            "cutout_caller_quota_exceeded", "Calls and prompts of a caller refused by a quota.", ("caller", "quota")
        )
        self._wait = self._histogram("cutout_queue_wait_seconds", "Time that jobs waited.", ("device",))
        self._dropped = self._counter(
            "cutout_jobs_dropped", "Jobs dropped before they cost anything.", ("device", "why")
        )
        self._batch = self._histogram(
            "cutout_batch_size", "Jobs in one pass.", ("device", "operation"), (1, 2, 4, 8, 16, 32, 64)
        )
        self._work_wait = self._histogram(
            "cutout_work_wait_seconds", "Time that work off the event loop waited.", ("where",)
        )
        self._work = self._histogram("cutout_work_seconds", "Time that it took.", ("where",))
        self._work_waiting = Gauge(
            "cutout_work_waiting", "Pieces of work that wait.", ("where",), registry=self.registry
        )
        self._bytes = Gauge(
            "cutout_bytes_in_hand", "Bytes of messages and answers that are held.", ("what",), registry=self.registry
        )
        self._given_up = self._counter("cutout_decodes_given_up", "Pictures whose decoding was ended.", ("why",))
        for why in GIVEN_UP:
            self._given_up.labels(why)
        self._held_pixels = Gauge("cutout_pixels_in_hand", "Pixels of pictures held.", registry=self.registry)
        self._pixels = self._histogram(
            "cutout_image_megapixels", "Sizes of pictures.", (), (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
        )

    def watch(self, board: StatusBoard) -> None:
        """Adds what is read at each scrape."""
        self.registry.register(_StatusCollector(board))
        for device in board.read().devices:
            for why in DROPPED:
                self._dropped.labels(device.name, why)

    def started(self, rpc: Rpc) -> None:
        """See CallObserver."""
        self._started.labels(rpc.type, rpc.service, rpc.method).inc()

    def finished(self, record: CallRecord) -> None:
        """See CallObserver. Who only asked has made no call; the gateway asks before it takes in a body."""
        if record.reason == ASKED:
            return
        labels = (record.rpc.type, record.rpc.service, record.rpc.method)
        self._handled.labels(*labels, record.code.name).inc()
        self._received.labels(*labels).inc(record.received)
        self._sent.labels(*labels).inc(record.sent)
        trace_id = traces.sampled_id(record.traceparent)
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._handling.labels(*labels).observe(record.seconds, exemplar)
        for stage, ms in record.stages_ms.items():
            self._stage.labels(stage).observe(ms / 1000, exemplar)
        self._requests.labels(record.caller).inc()
        for quota, times in record.exceeded.items():
            self._exceeded.labels(record.caller, quota).inc(times)
        if record.code in REFUSALS:
            self._refused.labels(record.reason).inc()

    def waited(self, device: str, seconds: float) -> None:
        """See PoolObserver."""
        self._wait.labels(device).observe(seconds)

    def batched(self, device: str, operation: str, size: int) -> None:
        """See PoolObserver."""
        self._batch.labels(device, operation).observe(size)

    def dropped(self, device: str, why: str) -> None:
        """See PoolObserver."""
        self._dropped.labels(device, why).inc()

    def queue(self, where: str, waiting: Callable[[], int]) -> None:
        """Adds a line of work, read at each scrape."""
        self._work_waiting.labels(where).set_function(waiting)

    def bytes_in_hand(self, what: str, held: Callable[[], int]) -> None:
        """Adds bytes that are bounded, read at each scrape."""
        self._bytes.labels(what).set_function(held)

    def pixels_in_hand(self, held: Callable[[], int]) -> None:
        """Says where the pixels are counted, read at each scrape."""
        self._held_pixels.set_function(held)

    def worked(self, where: str, waited_s: float, seconds: float) -> None:
        """See WorkObserver."""
        self._work_wait.labels(where).observe(waited_s)
        self._work.labels(where).observe(seconds)

    def given_up(self, why: str) -> None:
        """See DecodeObserver."""
        self._given_up.labels(why).inc()

    def decoded(self, pixels: int) -> None:
        """See PictureObserver."""
        self._pixels.observe(pixels / 1e6)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


class _StatusCollector(Collector):
    """Reads gauges where the truth is, instead of keeping copies of it."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board

    def collect(self) -> Iterator[Any]:
        status = self._board.read()
        yield _gauge("cutout_serving", "1 while requests are taken.", status.state is State.SERVING)
        yield _gauge("cutout_stored_images", "Uploaded pictures held.", status.stored_images)
        yield _gauge("cutout_stored_image_bytes", "Their files.", status.stored_bytes)
        yield _gauge("cutout_image_store_available", "1 while uploaded pictures can be kept.", status.store_available)
        for name, (text, read) in PER_DEVICE.items():
            gauge = GaugeMetricFamily(name, text, labels=["device"])
            for device in status.devices:
                gauge.add_metric([device.name], read(device))
            yield gauge
        for name, (text, read) in COUNTED_PER_DEVICE.items():
            counter = CounterMetricFamily(name, text, labels=["device"])
            for device in status.devices:
                counter.add_metric([device.name], read(device))
            yield counter
        for name, text in PER_CALLER.items():
            gauge = GaugeMetricFamily(f"cutout_caller_{name}", text, labels=["caller"])
            for use in status.callers:
                gauge.add_metric([use.name], getattr(use, name))
            yield gauge
        yield from _tracking(status)
        yield _gauge("cutout_answers_cache_bytes", "Answers held.", status.answers.bytes)
        yield CounterMetricFamily("cutout_answers_cache_hits", "Answers found.", status.answers.hits)
        yield CounterMetricFamily("cutout_answers_cache_misses", "Answers that had to be made.", status.answers.misses)
        yield CounterMetricFamily(
            "cutout_log_lines_dropped", "Log lines left out, as nobody read them.", logs.dropped()
        )
        sizes = GaugeMetricFamily("cutout_model_bytes", "Memory of a loaded model.", labels=["device", "model"])
        held = GaugeMetricFamily(
            "cutout_model_loaded", "1 while a device holds a model that it may hold.", labels=["device", "model"]
        )
        loads = CounterMetricFamily("cutout_model_loads", "Times a model was loaded.", labels=["device", "model"])
        for device in status.devices:
            for model, nbytes in device.models.items():
                sizes.add_metric([device.name, model], nbytes)
            for model, times in device.loads.items():
                held.add_metric([device.name, model], model in device.models)
                loads.add_metric([device.name, model], times)
        yield from (sizes, held, loads)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _tracking(status: ServerStatus) -> Iterator[Any]:
    tracking = status.tracking
    yield _gauge("cutout_tracking_sessions", "Open sessions that follow objects.", tracking.sessions)
    yield _gauge("cutout_tracked_objects", "Objects that they follow.", tracking.objects)
    yield _gauge("cutout_tracking_memory_bytes", "What is remembered of these.", tracking.memory_bytes)
    yield _gauge("cutout_tracking_reserved_bytes", "Room that is kept for it.", tracking.reserved_bytes)
    frames = CounterMetricFamily("cutout_tracked_frames", "Frames in which a model followed.", labels=["model"])
    for model, count in status.tracked_frames.items():
        frames.add_metric([model], count)
    yield frames
    yield CounterMetricFamily(
        "cutout_tracked_frames_dropped", "Frames dropped, as newer ones had come.", tracking.dropped_frames
    )
