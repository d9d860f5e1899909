"""The server and the gateway as processes of their own, on free loopback ports."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.subjects import Subject

START_S = 300  # The first start with an engine that prepares its model can take minutes.


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

    def peak_bytes(self) -> int:
        """The largest that it was, by the kernel's account."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@contextmanager
def serving(subject: Subject, **settings: object) -> Iterator[Running]:
    """A server with this model alone; settings are those of `python -m cutout_server`.

    Raises:
        RuntimeError: It did not come up; the text is its log.
    """
    flags = {"port": 0, "metrics_port": 0, "offline": "true", **settings}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    command = [sys.executable, "-m", "cutout_server", "--models", json.dumps(subject.settings()), *arguments]
    with _process(command, "serving") as (event, pid, ready_s):
        yield Running(event["address"], pid, ready_s, f"http://127.0.0.1:{event['metrics_port']}/metrics")


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
def _process(command: Sequence[str], awaited: str) -> Iterator[tuple[dict[str, Any], int, float]]:
    # A file takes its log: a pipe would have to be read, by this process and while it measures.
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            event = _await(process, Path(log.name), awaited, started + START_S)
            yield event, process.pid, time.perf_counter() - started
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], log: Path, awaited: str, until: float) -> dict[str, Any]:
    """The first log line whose event begins so."""
    while process.poll() is None and time.perf_counter() < until:
        for line in log.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict) and str(event.get("event", "")).startswith(awaited):
                    return event
        time.sleep(0.02)
    raise RuntimeError(f"{' '.join(command_name(process))} did not come up:\n{log.read_text()[-2000:]}")


def command_name(process: subprocess.Popen[bytes]) -> list[str]:
    """The program without its arguments."""
    arguments = process.args
    return [str(each) for each in arguments][1:3] if isinstance(arguments, list) else [str(arguments)]
