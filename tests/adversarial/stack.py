"""A real server and the gateway over it, each a process of its own, with few resources to fight for."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import yaml
from waiting import PATIENCE_S, wait_until

from tools import free_port

GOOD, BAD, WORSE = KEYS = "good-0123456789abcdef", "bad-0123456789abcdef", "worse-0123456789abcdef"
SAMPLE_S = 0.05
HASTY_GATEWAY = str(Path(__file__).parent / "hasty_gateway.py")


@dataclass(frozen=True)
class Program:
    """A running process and the file that its log lines go to."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        # The last line may be half there.
        lines = self.log.read_text().rpartition("\n")[0].splitlines()
        parsed = (json.loads(line) for line in lines if line.startswith("{"))
        return [event for event in parsed if event["event"].startswith(name)]

    def first(self, name: str) -> dict[str, Any]:
        """The first line of an event, once it is there."""
        wait_until(lambda: self.events(name) or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self.events(name)[0]

    def rss_bytes(self) -> int:
        """Memory that it and its children have now."""
        own = psutil.Process(self.process.pid)
        total = 0
        for each in (own, *own.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
        return total

    def files(self) -> int:
        """File descriptors that it has open now."""
        return psutil.Process(self.process.pid).num_fds()


@dataclass
class Peak:
    """The most that programs had together while they were watched, beside what they had at first."""

    first_bytes: int
    rss_bytes: int
    files: int

    @property
    def grown_bytes(self) -> int:
        """Memory that came in addition."""
        return self.rss_bytes - self.first_bytes


@dataclass(frozen=True)
class Stack:
    """Server and gateway.

    Attributes:
        address: host:port of the server.
        url: Of the gateway.
        metrics_url: Of the server.
    """

    server: Program
    gateway: Program
    address: str
    url: str
    metrics_url: str

    @property
    def gateway_port(self) -> int:
        """For attacks by sockets."""
        return int(self.url.rpartition(":")[2])

    def channel(self, options: Sequence[tuple[str, int]] = ()) -> grpc.Channel:
        """A channel of its own connection to the server."""
        return grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1), *options])

    @contextmanager
    def watched(self) -> Iterator[Peak]:
        """Looks at memory and file descriptors of both programs all the while."""
        both = (self.server, self.gateway)
        first = sum(program.rss_bytes() for program in both)
        peak = Peak(first, first, 0)
        over = threading.Event()

        def sample() -> None:
            while True:
                peak.rss_bytes = max(peak.rss_bytes, sum(program.rss_bytes() for program in both))
                peak.files = max(peak.files, *(program.files() for program in both))
                if over.wait(SAMPLE_S):
                    return

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield peak
        finally:
            over.set()
            thread.join()


@contextmanager
def program(folder: Path, name: str, command: Sequence[str], settings: dict[str, Any]) -> Iterator[Program]:
    """Runs one of the programs with these settings, and asks it to end at the end."""
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    config.write_text(yaml.safe_dump(settings))
    with log.open("wb") as sink:
        process = subprocess.Popen([sys.executable, *command, "--config", str(config)], stderr=sink)
    try:
        yield Program(process, log)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()


@contextmanager
def running(
    folder: Path,
    server: dict[str, Any] | None = None,
    gateway: dict[str, Any] | None = None,
    *,
    gateway_program: Sequence[str] = ("-m", "cutout_gateway"),
) -> Iterator[Stack]:
    """Runs both until the context ends; settings come on top of small ones, and every caller of KEYS has a key."""
    keys = [{"caller": key.partition("-")[0], "key": key} for key in KEYS]
    metrics_port = free_port()
    ours = {"port": 0, "metrics_port": metrics_port, "engine": "eager", "precision": "fp32", "api_keys": keys}
    with ExitStack() as stack:
        below = stack.enter_context(program(folder, "server", ("-m", "cutout_server"), ours | (server or {})))
        address = below.first("serving")["address"]
        own = {"port": 0, "server_address": address, "ready_timeout_s": PATIENCE_S}
        above = stack.enter_context(program(folder, "gateway", gateway_program, own | (gateway or {})))
        url = f"http://127.0.0.1:{above.first('gateway listening')['port']}"
        yield Stack(below, above, address, url, f"http://127.0.0.1:{metrics_port}/metrics")
