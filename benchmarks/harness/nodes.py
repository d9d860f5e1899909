"""What runs on hosts: servers by themselves, or the nodes of a Ray cluster with servers that are its fronts."""

import contextlib
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cutout_client import Client, CutoutError

from harness.hosts import Host

PORT, RAY_PORT = 50051, 6379
START_S = 300.0
FLAGS = ("--host=0.0.0.0", f"--port={PORT}", "--metrics-port=-1", "--log-level=warning", "--imaging-threads=1")
FIXED = '{"name":"fixed","family":"fixed"}'
OBJECT_STORE = 100_000_000  # Bytes, on each node.


class Node(Protocol):
    """A host that computes.

    Attributes:
        host: Where.
    """

    host: Host

    def begin(self) -> None:
        """Starts what runs there, and returns when requests may go there."""


class Server:
    """A server with a model of its own.

    Attributes:
        address: host:port.
    """

    def __init__(self, host: Host, service_ms: float) -> None:
        self.host = host
        self.address = f"{host.address}:{PORT}"
        self._env = _with_fixed(service_ms)

    def begin(self) -> None:
        """See Node."""
        self.host.run([sys.executable, "-m", "cutout_server", *FLAGS, "--models", FIXED], self._env)
        wait_until(lambda: is_serving(self.address), self.host)


class RayCluster:
    """A head and a front, each on a host of its own; `nodes` are to be begun.

    Attributes:
        address: host:port of the front.
        nodes: Those that workers run on, one each.
    """

    def __init__(
        self, head: Host, front: Host, hosts: Sequence[Host], service_ms: float = 0, models: str = FIXED
    ) -> None:
        self.address = f"{front.address}:{PORT}"
        self.nodes = [RayNode(host, self) for host in hosts]
        self._head, self._front, self._models = head, front, models
        self._address = f"{head.address}:{RAY_PORT}"
        self.env = _with_fixed(service_ms) | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_niceness": "0",
        }

    def begin(self) -> None:
        """Starts all of it, and returns when there is a worker on every node."""
        self._head.run([*self.started(self._head, cpus=0), "--block"], self.env)
        wait_until(lambda: "runtime started" in self._head.log.read_text(), self._head)
        count = str(len(self.nodes))
        workers = [f"--ray-min-workers={count}", f"--ray-max-workers={count}"]
        server = [
            sys.executable,
            "-m",
            "cutout_server",
            "--engine=ray",
            f"--ray-address={self._head.address}:{RAY_PORT}",
        ]
        command = [*server, *workers, *FLAGS, "--models", self._models]
        first, then = shlex.join(self.started(self._front, cpus=0)), shlex.join(command)
        self._front.run(["sh", "-c", f"{first} && exec {then}"], self.env)
        for node in self.nodes:
            node.begin()

    def started(self, host: Host, cpus: int) -> list[str]:
        """The command that begins Ray on a host."""
        is_head = host is self._head
        flags = {
            "node-ip-address": host.address,
            **({"port": RAY_PORT} if is_head else {"address": self._address}),
            "num-cpus": cpus,
            "object-store-memory": OBJECT_STORE,
        }
        program = [str(Path(sys.executable).with_name("ray")), "start", "--disable-usage-stats"]
        program += ["--include-log-monitor=false"]
        program += ["--head", "--include-dashboard=false", "--no-monitor"] if is_head else []
        return [*program, *(f"--{name}={value}" for name, value in flags.items())]

    def workers(self) -> list[str]:
        """The names of the hosts whose workers the front asks."""
        with contextlib.suppress(CutoutError), Client(self.address, retries=0) as client:
            return [device.name.split("/")[0] for device in client.status().devices]
        return []


class RayNode:
    """A node with room for one worker."""

    def __init__(self, host: Host, cluster: RayCluster) -> None:
        self.host = host
        self._cluster = cluster

    def begin(self) -> None:
        """See Node."""
        command = [*self._cluster.started(self.host, cpus=1), "--block"]

        def works() -> bool:
            if not self.host.runs:  # Ray gives up after half a minute, which a busy machine may take.
                self.host.run(command, self._cluster.env)
            return self.host.name in self._cluster.workers()

        wait_until(works, self.host)


def is_serving(address: str) -> bool:
    """Whether a server takes calls."""
    with contextlib.suppress(CutoutError), Client(address, retries=0) as client:
        return client.health(timeout_s=5) == "serving"
    return False


def wait_until(probe: Callable[[], bool], host: Host) -> None:
    """Returns when it is so.

    Raises:
        RuntimeError: The host's program ended, or it took too long; the text is what that said.
    """
    end = time.monotonic() + START_S
    while not probe():
        if not host.runs or time.monotonic() > end:
            raise RuntimeError(f"{host.name} did not come up: {host.log.read_text()[-2000:]}")
        time.sleep(0.1)


def _with_fixed(service_ms: float) -> dict[str, str]:
    """The environment in which the model `fixed` is known."""
    folder = str(Path(__file__).parent / "fixed")
    return {**os.environ, "PYTHONPATH": folder, "FIXED_SERVICE_MS": str(service_ms)}
