"""A Ray cluster on this machine, and servers that are its fronts, all of them processes."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from cutout_client import Client, CutoutError
from prometheus import scraped
from waiting import PATIENCE_S, wait_until

from tools import free_port

OBJECT_STORE = 200_000_000  # Bytes.


@dataclass(frozen=True)
class Front:
    """A server that runs no model itself.

    Attributes:
        address: host:port of the gRPC server.
        metrics_url: Where Prometheus scrapes.
    """

    address: str
    metrics_url: str

    def channel(self) -> grpc.Channel:
        """A plain channel."""
        return grpc.insecure_channel(self.address)

    def sum(self, metric: str, **labels: str) -> float:
        """What a metric's series with these labels come to."""
        return scraped(self.metrics_url, metric, **labels)


@dataclass(frozen=True)
class Cluster:
    """A head node, on which the workers are, too."""

    address: str
    head: psutil.Process
    env: Mapping[str, str]
    folder: Path

    def workers(self) -> list[psutil.Process]:
        """The processes of those that have begun."""
        found = []
        for process in self.head.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith("ray::Worker"):
                    found.append(process)
        return found

    @contextlib.contextmanager
    def front(self, *flags: str, port: int = 0) -> Iterator[Front]:
        """Runs a server of the cluster until the block ends."""
        with run_front(self.folder, self.env, "--ray-address", self.address, *flags, port=port) as front:
            yield front


@contextlib.contextmanager
def run_front(folder: Path, env: Mapping[str, str], *flags: str, port: int = 0) -> Iterator[Front]:
    """Runs a server until the block ends; it ends well, with whatever it began."""
    port, metrics_port = port or free_port(), free_port()
    address = f"127.0.0.1:{port}"
    ports = ["--port", str(port), "--metrics-port", str(metrics_port)]
    command = [sys.executable, "-m", "cutout_server", "--engine", "ray", "--imaging-threads", "1", *ports, *flags]
    log = folder / f"front-{port}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env)

    def serves() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(CutoutError), Client(address, retries=0) as client:
            return client.health(timeout_s=PATIENCE_S) == "serving"
        return False

    began: list[psutil.Process] = []
    try:
        wait_until(serves)
        began = psutil.Process(process.pid).children(recursive=True)
        yield Front(address, f"http://127.0.0.1:{metrics_port}/metrics")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0, log.read_text()[-3000:]
        _, left = psutil.wait_procs(began, timeout=PATIENCE_S)
        assert not left
    finally:
        process.kill()
        process.wait()
        for each in began:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


@contextlib.contextmanager
def ray_cluster(folder: Path, cpus: int) -> Iterator[Cluster]:
    """Runs a cluster; nothing of it is left when the block ends."""
    # Its sockets' names must be short.
    temporary, port = tempfile.mkdtemp(prefix="ray-", dir="/tmp"), free_port()
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
        "min-worker-port": 0,  # Any that are free.
        "max-worker-port": 0,
        "num-cpus": cpus,
        "object-store-memory": OBJECT_STORE,
        "include-dashboard": "false",
        "temp-dir": temporary,
    }
    program = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",  # Else whatever else this machine does goes first.
        "RAY_gcs_server_port_wait_time_s": str(int(PATIENCE_S)),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "100",  # Where spans are exported.
    }
    log = folder / "ray.log"
    with log.open("wb") as sink:
        command = [*program, *(f"--{name}={value}" for name, value in flags.items())]
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env)

    def runs() -> bool:
        assert process.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    everything: list[psutil.Process] = []
    try:
        wait_until(runs)
        head = psutil.Process(process.pid)
        yield Cluster(f"127.0.0.1:{port}", head, env, folder)
        everything = head.children(recursive=True)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        for each in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(everything, timeout=PATIENCE_S)
        shutil.rmtree(temporary, ignore_errors=True)
