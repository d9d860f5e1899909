"""Pictures of 1, 12 and 100 megapixels with one box: time and memory.

python benchmarks/megapixels.py [--model NAME] [--quick] [--json FILE]
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

from cutout_client import Client
from harness.loops import Job, Loop
from harness.photographs import MEGAPIXEL, Stock, boxes
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, interleave, ratio
from harness.scenario import Plan, run
from harness.servers import Running

SIZES = {"1 MP": MEGAPIXEL, "12 MP": (3000, 4000), "100 MP": (8660, 11547)}


def measure(plan: Plan) -> list[Table]:
    """The official predictor and a server of its own for every size, in turn."""
    sizes = dict(list(SIZES.items())[: plan.count(3, 2)])
    peaks: dict[str, int] = {}
    servers: dict[str, Running] = {}
    with ExitStack() as stack:
        official = stack.enter_context(plan.loop("official", plan.subject))
        contenders: dict[str, Callable[[], float]] = {}
        for name, size in sizes.items():
            contenders[f"official, {name}"] = _loop(official, f"official, {name}", size, peaks)
            server = stack.enter_context(plan.serving(plan.subject))
            servers[f"server, {name}"] = server
            client = stack.enter_context(Client(server.address, timeout_s=600))
            contenders[f"server, {name}"] = _served(client, size)
        idle = {name: server.memory_bytes() for name, server in servers.items()}
        times = interleave(contenders, plan.count(5, 2))
        peaks.update({name: server.peak_bytes() for name, server in servers.items()})
    rows: list[Row] = []
    for name, values in times.items():
        seconds = Sample.of(values)
        base = times[f"official, {name.split(', ')[1]}"]
        grown = (peaks[name] - idle[name]) / 2**20 if name in idle else None
        rows.append(
            {
                "way, size": name,
                "ratio": ratio(base, values).median,
                "ms": seconds.median * 1000,
                "ms low": seconds.low * 1000,
                "ms high": seconds.high * 1000,
                "peak MiB": peaks[name] / 2**20,
                "above idle MiB": grown,
            }
        )
    title = f"Size of the picture, {plan.subject.name}: one box"
    notes = [
        "The server reads a JPEG file and sends an encoded mask; the predictor has pixels and keeps bare masks.",
        "A server of its own for each size; the predictor's memory is that of its first turn, sizes in rising order.",
    ]
    return [Table(title, rows, Bars("way, size", "ms", "ms, with quartiles", spread=("ms low", "ms high")), notes)]


def _loop(loop: Loop, name: str, size: tuple[int, int], peaks: dict[str, int]) -> Callable[[], float]:
    indices = count()

    def turn() -> float:
        outcome = loop(Job(next(indices), size, boxes(1, size)))
        peaks.setdefault(name, outcome.peak_bytes)
        return outcome.seconds

    return turn


def _served(client: Client, size: tuple[int, int]) -> Callable[[], float]:
    stock, box = Stock(size), boxes(1, size)

    def turn() -> float:
        (file,) = stock.take(1)
        started = time.perf_counter()
        client.segment_box(file, box)
        return time.perf_counter() - started

    return turn


if __name__ == "__main__":
    run("megapixels", measure, __doc__)
