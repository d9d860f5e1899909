"""Fixtures that every area shares: real photographs and a real server."""

import asyncio
import gc
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import grpc
import numpy as np
import pytest
import skimage.data
import structlog
from cutout.v1 import image_service_pb2_grpc, model_service_pb2_grpc, segmentation_service_pb2_grpc
from cutout_client import session_steps
from cutout_client.connection import Connection
from cutout_gateway import calls
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import GatewaySettings
from cutout_server.app import App
from cutout_server.models.memory import give_back
from cutout_server.settings import Settings
from gateway_fixtures import HERE, EchoServer, GatewayThread, compile_protos
from hypothesis import HealthCheck, settings
from waiting import PATIENCE_S, wait_until

pytest_plugins = ["decode_processes", "kept_memory", "full_size", "pytester", "run_ends"]


def scheduling() -> int:
    """The policy by which this process gets a processor."""
    return os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else 0


SCHEDULING = scheduling()


def pytest_configure() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would the programs that tests interrupt.

    Hypothesis measures no times.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says how busy the machine is. All else stays as hypothesis has it here.
    settings.register_profile("patient", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: nobody need look for garbage in it, neither meanwhile nor afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests are handed out first, then those with most tests: several processes end together."""
    files = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -files[item.path], item.path))


def pytest_sessionfinish() -> None:
    """Else packages complain at the end that their objects are still there."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def null_file() -> Iterator[IO[str]]:
    """Where logs go."""
    with Path(os.devnull).open("w") as file:
        yield file
        structlog.reset_defaults()


@pytest.fixture(scope="module", autouse=True)
def quiet_logs(null_file: IO[str]) -> None:
    """Servers on threads log at any time, between tests too; that has no place in pytest's report.

    Each file says so again, whatever the one before has left.
    """
    structlog.configure(
        # Plain, as servers write them: to draw one with the values of all variables takes seconds.
        processors=[structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)],
        logger_factory=structlog.PrintLoggerFactory(null_file),
        cache_logger_on_first_use=False,
    )


@pytest.fixture(scope="module", autouse=True)
def tidy() -> Iterator[None]:
    """What the tests of a file took is there for other files and processes, the processor not least."""
    yield
    give_back("cpu")
    assert scheduling() == SCHEDULING, "something left this process another scheduling policy"


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Where a test sets no deadline, servers, gateways and clients wait as long as tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_DEFAULT_DEADLINE_S", str(PATIENCE_S))
        patch.setenv("CUTOUT_GATEWAY_DEFAULT_TIMEOUT_S", str(PATIENCE_S))
        patch.setattr(session_steps, "CLOSE_S", PATIENCE_S)
        patch.setitem(Connection.__init__.__kwdefaults__, "timeout_s", PATIENCE_S)
        yield


def encode(pixels: np.ndarray, suffix: str = ".jpg") -> bytes:
    """An RGB picture as a file."""
    ok, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert ok
    return data.tobytes()


@dataclass(frozen=True)
class Photo:
    """A photograph as pixels, (H, W, 3) uint8 RGB, and as a JPEG file."""

    pixels: np.ndarray
    jpeg: bytes


@pytest.fixture(scope="session")
def photos() -> dict[str, Photo]:
    """scikit-image's bundled photographs."""
    names = ("astronaut", "chelsea", "coffee", "rocket")
    return {name: Photo(pixels := getattr(skimage.data, name)(), encode(pixels)) for name in names}


@dataclass
class RunningServer:
    """A server that runs in this process, on a thread with an event loop of its own.

    Attributes:
        address: host:port of the gRPC server.
        metrics_url: Where Prometheus scrapes.
        app: The server itself.
        loop: Its event loop.
    """

    address: str
    metrics_url: str
    app: App
    loop: asyncio.AbstractEventLoop
    stopping: Future[None] | None = None

    def stop(self) -> Future[None]:
        """Begins to drain, once; the future is done when the server has stopped."""
        if self.stopping is None:
            self.stopping = asyncio.run_coroutine_threadsafe(self.app.stop(), self.loop)
            wait_until(lambda: self.app.draining)
        return self.stopping

    def channel(self, options: Sequence[tuple[str, int]] = ()) -> grpc.Channel:
        """A plain channel with gRPC's own defaults, 4 MiB message limits among them."""
        return grpc.insecure_channel(self.address, options)


@contextmanager
def run_server(*, wait_until_serving: bool = True, **settings: object) -> Iterator[RunningServer]:
    """Runs a server on free loopback ports; any setting can be given."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server-loop")
    thread.start()

    async def start() -> App:
        defaults = {"port": 0, "metrics_port": 0, "log_level": "warning", "drain_s": 60.0}
        defaults |= {"engine": "eager", "precision": "fp32"}  # As the references compute.
        app = App(Settings(**defaults | settings))
        await app.start()
        serving = asyncio.ensure_future(app.serve())
        if wait_until_serving:
            await serving
        return app

    try:
        app = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE_S)
        server = RunningServer(app.address, f"http://127.0.0.1:{app.metrics_port}/metrics", app, loop)
        try:
            yield server
        finally:
            server.stop().result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """A server with the default settings and the built-in model."""
    with run_server() as running:
        yield running


@dataclass(frozen=True)
class Stubs:
    """The generated stubs over one channel."""

    segmentation: segmentation_service_pb2_grpc.SegmentationServiceStub
    images: image_service_pb2_grpc.ImageServiceStub
    models: model_service_pb2_grpc.ModelServiceStub

    @classmethod
    def over(cls, channel: grpc.Channel) -> "Stubs":
        """Stubs that share a channel."""
        return cls(
            segmentation_service_pb2_grpc.SegmentationServiceStub(channel),
            image_service_pb2_grpc.ImageServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


@pytest.fixture(scope="session")
def stubs(server: RunningServer) -> Iterator[Stubs]:
    """Generated stubs that call `server`."""
    with server.channel() as channel:
        yield Stubs.over(channel)


@pytest.fixture(scope="session")
def gateway_url(server: RunningServer) -> Iterator[str]:
    """A gateway over `server`."""
    with GatewayThread(GatewaySettings(server_address=server.address)) as gateway:
        yield gateway.url


@pytest.fixture(scope="session")
def echo_contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """Of gateway_echo.proto, which has every kind of field, rule and call."""
    return Contract(compile_protos(tmp_path_factory.mktemp("echo"), HERE / "gateway_echo.proto"))


@pytest.fixture(scope="module")
def shared_echo(echo_contract: Contract) -> Iterator[EchoServer]:
    """A gRPC server of that contract. It never says that it lets a caller in, which gateways need not wait for."""
    server = EchoServer(echo_contract)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "ANSWER_S", 0.05)
        yield server
    server.stop()


@pytest.fixture
def echo(shared_echo: EchoServer) -> Iterator[EchoServer]:
    """The same, with nothing left of the test before."""
    shared_echo.reset()
    yield shared_echo
    shared_echo.cancelled.set()
