"""From nothing to the first mask: the official predictor in a script, and the server.

python benchmarks/startup.py [--model NAME] [--quick] [--json FILE]
"""

import time
from tempfile import TemporaryDirectory

from cutout_client import Client
from harness.loops import Job
from harness.photographs import MEGAPIXEL, Stock, boxes
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, interleave, ratio
from harness.scenario import Plan, run

OFFICIAL, SERVED = "official predictor in a script", "server"


def measure(plan: Plan) -> list[Table]:
    """The warm-up round pays for what is prepared once and kept on disk; its time is a row of its own."""
    with TemporaryDirectory() as prepared:
        return _measure(plan, prepared)


def _measure(plan: Plan, prepared: str) -> list[Table]:
    stock = Stock()
    parts: dict[str, list[tuple[float, float, int]]] = {OFFICIAL: [], SERVED: []}

    def official() -> float:
        with plan.loop("official", plan.subject) as loop:
            outcome = loop(Job(0, MEGAPIXEL, boxes(1)))
        parts[OFFICIAL].append((loop.ready_s, outcome.seconds, outcome.peak_bytes))
        return loop.ready_s + outcome.seconds

    def served() -> float:
        (file,) = stock.take(1)
        with (
            plan.serving(plan.subject, weights_dir=prepared) as server,
            Client(server.address, timeout_s=600) as client,
        ):
            started = time.perf_counter()
            client.segment_box(file, boxes(1))
            seconds = time.perf_counter() - started
            parts[SERVED].append((server.ready_s, seconds, server.peak_bytes()))
        return server.ready_s + seconds

    times = interleave({OFFICIAL: official, SERVED: served}, plan.count(5, 2))
    rows = [_row("server, the very first start", [parts[SERVED][0]], None)]
    rows += [_row(name, parts[name][1:], ratio(times[OFFICIAL], values)) for name, values in times.items()]
    title = f"Start to first mask, {plan.subject.name}"
    return [Table(title, rows, Bars("what", "s to the first mask", "seconds from the start of the process"))]


def _row(name: str, parts: list[tuple[float, float, int]], speed: Sample | None) -> Row:
    whole = Sample.of([ready + first for ready, first, _ in parts])
    return {
        "what": name,
        "ratio": speed.median if speed else None,
        "s to the first mask": whole.median,
        "s low": whole.low,
        "s high": whole.high,
        "s until ready": Sample.of([ready for ready, _, _ in parts]).median,
        "s for the first": Sample.of([first for _, first, _ in parts]).median,
        "peak MiB": Sample.of([peak / 2**20 for _, _, peak in parts]).median,
    }


if __name__ == "__main__":
    run("startup", measure, __doc__)
