"""A server that fails as it is told: what the real one cannot be brought to do at will."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from cutout.v1 import (
    image_service_pb2,
    image_service_pb2_grpc,
    segmentation_service_pb2,
    segmentation_service_pb2_grpc,
    tracking_service_pb2_grpc,
)
from cutout_common.status import ErrorDetails, pack
from grpc_status import rpc_status
from waiting import PATIENCE_S


def cutout(address: str, *arguments: object, code: int = 0, columns: int = 80) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own, so many columns wide, and checks its exit status."""
    env = os.environ | {"CUTOUT_CLIENT_SERVER": address, "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "cutout_client", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == code, done.stderr
    return done


@dataclass
class ScriptedServer:
    """Fails its calls one after the other as `failures` says, then answers.

    Attributes:
        address: Where it listens.
        failures: Statuses still to come, as (code, message, details).
        calls: The name of each call that arrived.
        metadata: What came with the last call.
        digests: What each upload said its file's digest was.
        requests: The unary requests.
        events: The messages with which streams are answered.
        lost_after: As many of them, and then the stream breaks off as that of a server that is lost.
        answer: The message with which SegmentByBox is answered.
        hold: Whether SegmentByBox is not answered before its deadline.
    """

    address: str = ""
    failures: list[tuple[grpc.StatusCode, str, ErrorDetails | None]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    lost_after: int | None = None
    answer: segmentation_service_pb2.SegmentByBoxResponse = field(
        default_factory=segmentation_service_pb2.SegmentByBoxResponse
    )
    hold: bool = False

    def arrive(self, name: str, context: grpc.ServicerContext) -> None:
        """Notes the call, and ends it when a failure is due."""
        self.calls.append(name)
        self.metadata = dict(context.invocation_metadata())
        if self.failures:
            code, message, details = self.failures.pop(0)
            if details is None:
                context.abort(code, message)
            context.abort_with_status(rpc_status.to_status(pack(code, message, details)))


class _Segmentation(segmentation_service_pb2_grpc.SegmentationServiceServicer):
    def __init__(self, script: ScriptedServer) -> None:
        self.script = script

    def SegmentByBox(self, request, context):  # noqa: N802
        self.script.arrive("SegmentByBox", context)
        self.script.requests.append(request)
        if self.script.hold:
            time.sleep(context.time_remaining() + 0.1)
        return self.script.answer

    def SegmentByText(self, request, context):  # noqa: N802
        self.script.arrive("SegmentByText", context)
        self.script.requests.append(request)
        return segmentation_service_pb2.SegmentByTextResponse()

    def SegmentEverything(self, request, context):  # noqa: N802
        self.script.arrive("SegmentEverything", context)
        self.script.requests.append(request)
        return segmentation_service_pb2.SegmentEverythingResponse()

    def StreamSegmentation(self, _request, context):  # noqa: N802
        self.script.arrive("StreamSegmentation", context)
        yield from self.script.events[: self.script.lost_after]
        if self.script.lost_after is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def SegmentSession(self, requests, context):  # noqa: N802
        self.script.arrive("SegmentSession", context)
        yield segmentation_service_pb2.SegmentSessionResponse(opened=segmentation_service_pb2.SessionOpened())
        for _request in requests:
            pass  # never answers a prompt


class _Images(image_service_pb2_grpc.ImageServiceServicer):
    def __init__(self, script: ScriptedServer) -> None:
        self.script = script

    def UploadImage(self, requests, context):  # noqa: N802
        received = list(requests)
        self.script.arrive("UploadImage", context)
        self.script.digests.append(received[0].expected_sha256)
        size = sum(len(request.chunk.data) for request in received)
        return image_service_pb2.UploadImageResponse(image_id="stored", size_bytes=size)


class _Tracking(tracking_service_pb2_grpc.TrackingServiceServicer):
    def __init__(self, script: ScriptedServer) -> None:
        self.script = script

    def TrackVideo(self, _request, context):  # noqa: N802
        self.script.arrive("TrackVideo", context)
        lost_after = self.script.lost_after
        yield from self.script.events[:lost_after]
        if lost_after is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Runs one on a free loopback port."""
    script = ScriptedServer()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    segmentation_service_pb2_grpc.add_SegmentationServiceServicer_to_server(_Segmentation(script), server)
    image_service_pb2_grpc.add_ImageServiceServicer_to_server(_Images(script), server)
    tracking_service_pb2_grpc.add_TrackingServiceServicer_to_server(_Tracking(script), server)
    script.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield script
    finally:
        server.stop(None).wait()
