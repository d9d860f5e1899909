"""Many servers and a long queue, simulated: what the choice of a server keeps, and what it costs.

    python benchmarks/simulation.py [--nodes 1 2 4 8 16 32 64] [--requests 10000] [--plot FILE] [--json FILE]

Time is simulated; the choice of a server is the real one (`cutout_common.fleet`), beside one that takes the server that
has least to do, whatever it has seen. What things take is measured elsewhere (RESULTS.md) and given by flags.
"""

import argparse
import heapq
import json
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from cutout_common.fleet import Fleet, Member
from cutout_common.routing import ANYWHERE, Place
from harness.plots import Lines
from harness.rounds import quantile


@dataclass(frozen=True)
class Costs:
    """What things take, in seconds of what there is one of.

    Attributes:
        encode_s: Of a server's device, for a picture's embedding.
        prompt_s: Of a server's device, for a prompt.
        front_s: Of a gateway's processor, for a call; one gateway stands before so many servers.
        servers_per_front: Servers for each gateway.
        wire_s: On the way, to a server and back.
    """

    encode_s: float
    prompt_s: float
    front_s: float
    servers_per_front: int
    wire_s: float


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        requests: So many, all there at the beginning.
        callers: Of them are under way together, for each server.
        pictures: They are about so many; the n-th most popular is asked for 1/n times as often (Zipf's law).
        embeddings: A server keeps so many.
    """

    requests: int
    callers: int
    pictures: int
    embeddings: int


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        choice: How servers were chosen.
        nodes: How many there were.
        per_s: Requests answered a second.
        of_ideal: That, as a share of what so many servers could do that encode each picture once between them.
        hits: Share of the requests whose embedding was there.
        encodes: Embeddings that were made.
        p50_s: How long a request took, once it was its caller's turn.
        p99_s: Likewise.
        busiest: Seconds that the busiest device worked, over the mean.
    """

    choice: str
    nodes: int
    per_s: float
    of_ideal: float
    hits: float
    encodes: int
    p50_s: float
    p99_s: float
    busiest: float


@dataclass(eq=False)
class _Device:
    """A server's device: one thing after the other, in the order in which they came."""

    free_at: float
    worked: float
    held: OrderedDict[int, None]


Choice = Callable[[int], Place]
CHOICES: dict[str, Choice] = {
    "by picture": lambda picture: Place(f"{picture:032x}"),
    "least to do": lambda _picture: ANYWHERE,
}


def simulated(choice: str, nodes: int, load: Load, costs: Costs, *, seed: int = 0) -> Outcome:
    """Has so many servers answer a load."""
    randomness = random.Random(seed)  # noqa: S311 - no secret
    weights = [1 / rank for rank in range(1, load.pictures + 1)]
    pictures = randomness.choices(range(load.pictures), weights, k=load.requests)
    fleet = Fleet()
    fleet.become([f"10.0.{number // 250}.{number % 250}:50051" for number in range(nodes)])
    devices = {member: _Device(0.0, 0.0, OrderedDict()) for member in fleet}
    fronts = [0.0] * -(-nodes // costs.servers_per_front)
    waiting: Iterator[int] = iter(pictures)
    under_way: list[tuple[float, int, Member]] = []  # When each is answered.
    took: list[float] = []
    encodes = ended = 0

    def begin(now: float) -> None:
        nonlocal encodes
        if (picture := next(waiting, None)) is None:
            return
        front = len(took) % len(fronts)
        fronts[front] = max(fronts[front], now) + costs.front_s
        member = fleet.pick(CHOICES[choice](picture))
        assert member is not None
        device = devices[member]
        work = costs.prompt_s
        if picture not in device.held:
            encodes += 1
            work += costs.encode_s
            if len(device.held) >= load.embeddings:
                device.held.popitem(last=False)
        device.held[picture] = None
        device.held.move_to_end(picture)
        device.worked += work
        device.free_at = max(device.free_at, fronts[front] + costs.wire_s) + work
        answered = device.free_at + costs.wire_s
        took.append(answered - now)
        heapq.heappush(under_way, (answered, len(took), member))

    for _ in range(load.callers * nodes):
        begin(0.0)
    now = 0.0
    while under_way:
        now, _, member = heapq.heappop(under_way)
        with fleet.busy(member):  # Until here.
            ended += 1
        begin(now)
    assert ended == load.requests, "each is answered once"
    worked = [device.worked for device in devices.values()]
    least = (len(set(pictures)) * costs.encode_s + load.requests * costs.prompt_s) / nodes
    return Outcome(
        choice,
        nodes,
        load.requests / now,
        least / now,
        1 - encodes / load.requests,
        encodes,
        quantile(took, 0.5),
        quantile(took, 0.99),
        max(worked) / fmean(worked),
    )


def main() -> None:
    """Simulates, prints a table, draws it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--callers", type=int, default=8, help="under way together for each server")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--embeddings", type=int, default=256, help="that a server keeps")
    parser.add_argument("--encode-ms", type=float, default=494, help="sam2.1-tiny, `auto`, two cores")
    parser.add_argument("--prompt-ms", type=float, default=24.4, help="the same, in a session")
    parser.add_argument("--front-ms", type=float, default=1.0, help="a gateway's processor, for a call")
    parser.add_argument("--servers-per-front", type=int, default=16)
    parser.add_argument("--wire-ms", type=float, default=0.5, help="each way")
    parser.add_argument("--plot", type=Path, help="a PNG of what so many servers answer")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load = Load(args.requests, args.callers, args.pictures, args.embeddings)
    costs = Costs(
        args.encode_ms / 1000, args.prompt_ms / 1000, args.front_ms / 1000, args.servers_per_front, args.wire_ms / 1000
    )
    rows = []
    heads = ("req/s", "of ideal", "hits", "encodes", "p50, s", "p99, s", "busiest")
    print(f"{'choice':<12} {'nodes':>5}", *(f"{head:>8}" for head in heads))
    for choice in CHOICES:
        for nodes in args.nodes:
            one = simulated(choice, nodes, load, costs)
            rows.append(asdict(one))
            print(
                f"{choice:<12} {nodes:>5} {one.per_s:>8.1f} {one.of_ideal:>8.2f} {one.hits:>8.1%} {one.encodes:>8}"
                f" {one.p50_s:>8.2f} {one.p99_s:>8.2f} {one.busiest:>8.2f}",
                flush=True,
            )
    if args.plot:
        lines = Lines("nodes", "per_s", ("servers", "requests answered a second"), "choice", logarithmic=True)
        lines.draw(f"{load.requests:,} queued requests on {load.pictures} pictures, simulated", rows, args.plot)
    if args.json:
        args.json.write_text(json.dumps({"load": asdict(load), "costs": asdict(costs), "outcomes": rows}, indent=2))


if __name__ == "__main__":
    main()
