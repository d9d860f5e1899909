"""The server and the gateway as processes of their own, on free loopback ports."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from harness.subjects import CACHE, Subject

T = TypeVar("T")
SERVER = ("-m", "cutout_server")
START_S = 900  # The first start with an engine that prepares its model takes minutes.


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        address: host:port, or the URL of a gateway.
        pid: Its process.
        ready_s: From its start to its word that it serves.
        metrics_url: Where Prometheus scrapes; empty for a gateway.
    """

    address: str
    pid: int
    ready_s: float
    metrics_url: str = ""

    def memory_bytes(self) -> int:
        """Resident set of the process now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def processor_s(self) -> float:
        """Time that all threads of the process have computed so far, in hundredths of a second."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def peak_bytes(self) -> int:
        """The largest that it was, by the kernel's account."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@contextmanager
def serving(subject: Subject, *, program: Sequence[str] = SERVER, **settings: object) -> Iterator[Running]:
    """A server with this model alone; settings are those of `python -m cutout_server`, or of another program.

    Raises:
        RuntimeError: It did not come up; the text is its log.
    """
    with _serving(subject.settings(), settings, program) as running:
        yield running


@contextmanager
def serving_builtin(**settings: object) -> Iterator[Running]:
    """The same with the built-in model."""
    with _serving({"name": "builtin", "family": "builtin"}, settings) as running:
        yield running


@contextmanager
def serving_fixed(**settings: object) -> Iterator[Running]:
    """The same with a model that takes a fixed time and no processor; see harness/fixed."""
    with _serving({"name": "fixed", "family": "fixed"}, settings) as running:
        yield running


@contextmanager
def gateway(server: Running) -> Iterator[Running]:
    """A gateway over a server.

    Raises:
        RuntimeError: It did not come up; the text is its log.
    """
    command = [sys.executable, "-m", "cutout_gateway", "--port=0", f"--server-address={server.address}"]
    with _process(command, "gateway listening") as (event, pid, ready_s):
        yield Running(f"http://{event['host']}:{event['port']}", pid, ready_s)


@contextmanager
def _serving(model: dict[str, Any], settings: dict[str, object], program: Sequence[str] = SERVER) -> Iterator[Running]:
    flags = {"port": 0, "metrics_port": 0, "offline": "true", "weights_dir": CACHE, **settings}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    command = [sys.executable, *program, "--models", json.dumps(model), *arguments]
    with _process(command, "serving") as (event, pid, ready_s):
        yield Running(event["address"], pid, ready_s, f"http://127.0.0.1:{event['metrics_port']}/metrics")


@contextmanager
def _process(command: Sequence[str], awaited: str) -> Iterator[tuple[dict[str, Any], int, float]]:
    began = time.perf_counter()
    with started(command, lambda log: _event(log, awaited)) as (event, pid):
        yield event, pid, time.perf_counter() - began


@contextmanager
def started(command: Sequence[str], look: Callable[[str], T | None]) -> Iterator[tuple[T, int]]:
    """A process, from the moment at which it is ready; stopped in the end.

    Args:
        command: The program and its arguments.
        look: Its log so far -> what tells that it is ready, or None.

    Raises:
        RuntimeError: It ended or was not ready in time; the text is its log.
    """
    # A file takes its log: a pipe would have to be read, by this process and while it measures.
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            until, sign = time.monotonic() + START_S, None
            while sign is None:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{command[2]} did not come up:\n{Path(log.name).read_text()[-2000:]}")
                time.sleep(0.02)
                sign = look(Path(log.name).read_text())
            yield sign, process.pid
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _event(log: str, awaited: str) -> dict[str, Any] | None:
    """The first line whose event begins so."""
    for line in log.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if isinstance(event, dict) and str(event.get("event", "")).startswith(awaited):
                return event
    return None
