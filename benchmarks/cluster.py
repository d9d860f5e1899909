"""Three hosts that compute, and what callers notice when something befalls one of them.

    sudo python benchmarks/cluster.py [--engine servers ray] [--entrance client envoy] [--faults kill cut ...]
        [--callers 32] [--seconds 15] [--scaling 1 2 4 8] [--json FILE]

Hosts are namespaces with a network of their own (iproute2, root). On each is a server, or, with --engine ray, a node of
a cluster, whose head and two fronts have hosts of their own. Callers choose a server or front, or two Envoys do. The
model takes a fixed time and no processor, and answers what the caller can check: a mask of another picture or prompt,
or one that comes twice, is counted as wrong. With --scaling it measures instead what so many servers answer together,
beside one. Tables are Markdown, as RESULTS.md has them.
"""

import argparse
import bisect
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from cutout_client import Client, CutoutError
from harness.faults import FAULTS, Site, Step, possible
from harness.hosts import hosts
from harness.nodes import Envoy, RayCluster, Server, begin
from harness.rounds import quantile

PICTURES = 20
SIDE = 64
STREAMS = 4  # Of so many callers, one asks for two objects in a stream.
BALANCERS = (50050, 50049)
# Callers are answered again when within so many seconds they get so much of what the nodes that are left gave before.
BACK_S, BACK = 3.0, 0.75


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
        in_stream = number % STREAMS == 0
        while not self._over.is_set():
            number += 1
            grey = 10 + number % PICTURES * 10
            picture = np.full((SIDE, SIDE, 3), grey, np.uint8)
            x = number % 30
            boxes = [(x, 5, x + 20, 40), (x + 1, 6, x + 21, 41)][: 1 + in_stream]
            began, fault = time.monotonic(), ""
            try:
                found = (
                    self._client.stream(picture, boxes=boxes) if in_stream else self._client.segment_box(picture, boxes)
                )
                said = sorted((tuple(each.box), round(each.predicted_iou - grey / 255, 2)) for each in found)
                if said != [(box, 0) for box in boxes]:
                    fault = f"wrong: {said} for {boxes}"
            except CutoutError as error:
                fault = str(error)
            self.asked.append(Asked(began, time.monotonic() - began, fault))


@dataclass(frozen=True)
class Phase:
    """What callers noticed while something was so.

    Attributes:
        back_s: Seconds until callers were answered as often as the nodes that were left can; NaN for never.
    """

    name: str
    seconds: float
    calls: int
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    back_s: float
    faults: int

    @classmethod
    def of(cls, name: str, began: float, ended: float, asked: list[Asked], expected: float = 0) -> "Phase":
        """Of the calls that ended meanwhile, so that one which waits for what befell a host tells of that.

        `expected`: so many a second do the nodes answer that are left.
        """
        inside = [each for each in asked if began <= each.began + each.seconds < ended]
        ms = [each.seconds * 1000 for each in inside] or [float("nan")]
        answered = sorted(each.began + each.seconds for each in asked if not each.fault)
        return cls(
            name,
            seconds=ended - began,
            calls=len(inside),
            per_s=len(inside) / (ended - began),
            p50_ms=quantile(ms, 0.5),
            p99_ms=quantile(ms, 0.99),
            max_ms=max(ms),
            back_s=_back(answered, began, ended, BACK * expected),
            faults=sum(bool(each.fault) for each in inside),
        )

    def __str__(self) -> str:
        figures = f"{self.per_s:.1f} | {self.p50_ms:,.0f} | {self.p99_ms:,.0f} | {self.max_ms:,.0f} | {self.back_s:.1f}"
        return f"| {self.name} | {self.seconds:.0f} | {self.calls:,} | {figures} | {self.faults} |"


HEAD = (
    "\n| phase | s | calls | calls/s | p50 ms | p99 ms | max ms | back after s | faults |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: |"
)


def _back(answered: Sequence[float], began: float, ended: float, per_s: float) -> float:
    """Seconds from `began` to the end of the first stretch in which so many answers came, by their sorted times."""
    for start in np.arange(began, ended, 0.5):
        if bisect.bisect(answered, start + BACK_S) - bisect.bisect(answered, start) >= per_s * BACK_S:
            return float(start - began)
    return float("nan")


def befall(site: Site, chosen: Sequence[str], seconds: float, lasting_s: float) -> list[tuple[Step, float]]:
    """What happens, one thing after the other, and when each began."""
    began: list[tuple[Step, float]] = []
    befalls = (step for name in chosen for step in FAULTS[name](site, lasting_s))
    for step in [Step("all there"), *befalls, Step("all there again")]:
        print(time.strftime("%X"), step.name, flush=True)
        began.append((step, time.monotonic()))
        step.event()
        if not step.is_over:
            time.sleep(seconds)
    return [*began, (Step(""), time.monotonic())]


def scaling(counts: Sequence[int], seconds: float, service_ms: float) -> list[Phase]:
    """What so many servers answer together, once they know the pictures."""
    phases: list[Phase] = []
    with hosts(max(counts)) as made:
        servers = [Server(host, service_ms) for host in made]
        begin(*servers)
        print(HEAD)
        for count in counts:
            with Callers(",".join(server.address for server in servers[:count]), 8 * count) as load:
                time.sleep(3 * PICTURES * service_ms / 1000)
                began = time.monotonic()
                time.sleep(seconds)
                ended = time.monotonic()
            phases.append(Phase.of(f"{count} servers", began, ended, load.asked))
            print(phases[-1], f"{phases[-1].per_s / phases[0].per_s / count * counts[0]:.2f} of one each |", flush=True)
    return phases


@contextlib.contextmanager
def ready(args: argparse.Namespace, engine: str, entrance: str) -> Iterator[Site]:
    """What computes, once it does, and what callers ask."""
    fronts = 2 if engine == "ray" else 0
    with hosts(args.nodes + fronts + (engine == "ray")) as made, contextlib.ExitStack() as stack:
        if engine == "ray":
            cluster = RayCluster(made[0], made[1 : 1 + fronts], made[1 + fronts :], args.service_ms)
            cluster.begin()
            site = Site(cluster.address, cluster.nodes, cluster.fronts, cluster.head)
        else:
            servers = [Server(host, args.service_ms) for host in made]
            begin(*servers)
            site = Site(",".join(server.address for server in servers), servers)
        if entrance == "envoy":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            balancers = [Envoy(port, site.address.split(","), folder) for port in BALANCERS]
            for each in balancers:
                stack.callback(each.kill)
                each.start()
            address = ",".join(each.address for each in balancers)
            site = replace(site, address=address, balancers=balancers)
        yield site


def endured(args: argparse.Namespace, engine: str, entrance: str) -> list[Phase]:
    """What callers noticed of each fault, by one way to several machines."""
    with ready(args, engine, entrance) as site:
        chosen = [name for name in args.faults or FAULTS if name in possible(site)]
        with Callers(site.address, args.callers) as load:
            time.sleep(args.seconds)  # Until every node knows its pictures.
            happened = befall(site, chosen, args.seconds, args.cut_s)
    phases: list[Phase] = []
    for (step, began), (_, ended) in pairwise(happened):
        left = 1 - step.lost / len(site.nodes)
        phases.append(Phase.of(step.name, began, ended, load.asked, left * phases[0].per_s if phases else 0))
    print(f"\n{engine}, chosen by {entrance}, {args.callers} callers, a model of {args.service_ms:g} ms")
    print(HEAD, *phases, sep="\n")
    for fault in sorted({each.fault for each in load.asked if each.fault}):
        print("fault:", fault)
    return phases


def main() -> None:
    """Makes hosts, starts what computes, measures, prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["servers", "ray"], nargs="+", default=["servers"], help="what computes")
    parser.add_argument("--entrance", choices=["client", "envoy"], nargs="+", default=["client"], help="who chooses")
    parser.add_argument("--faults", choices=FAULTS, nargs="+", help="all that can be, unless given")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15, help="of each phase, at least")
    parser.add_argument("--cut-s", type=float, default=20, help="for so long one is cut off, slow, or hangs")
    parser.add_argument("--service-ms", type=float, default=60, help="what a prompt takes")
    parser.add_argument("--scaling", type=int, nargs="+", metavar="COUNT")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    told = []
    if args.scaling:
        told.append({"phases": [asdict(each) for each in scaling(args.scaling, args.seconds, args.service_ms)]})
    else:
        for engine, entrance in product(args.engine, args.entrance):
            phases = endured(args, engine, entrance)
            told.append({"engine": engine, "entrance": entrance, "phases": [asdict(each) for each in phases]})
    if args.json:
        args.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
