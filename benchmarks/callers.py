"""Throughput and waiting as callers grow: distinct pictures with one box each, beside the server's own model in a loop.

    python benchmarks/callers.py [--model NAME] [--quick] [--json FILE]

The loop has its pixels in hand and makes bare masks: what the server must do beside that, it must do meanwhile. At
most 64 requests are in hand, so some of 96 callers are turned away and come again after the delay that they were told.
"""

import asyncio
from itertools import count

from harness.callers import Load, Probe, serve_callers
from harness.loops import Job
from harness.photographs import MEGAPIXEL, Stock, boxes
from harness.plots import Bars, Lines
from harness.report import Row, Table
from harness.rounds import Sample, quantile, rate
from harness.scenario import Plan, run

LEVELS = (1, 4, 16, 64, 96)


def measure(plan: Plan) -> list[Table]:
    """Levels in turn, the loop before each of them, so that both meet the same machine."""
    levels = plan.count(len(LEVELS), 3)
    stock, indices, box = Stock(), count(10**6), boxes(1, MEGAPIXEL)
    raw: dict[int, list[float]] = {}
    loads: dict[int, list[tuple[Load, Probe]]] = {}
    with plan.loop("raw", plan.subject) as loop, plan.serving(plan.subject) as server:

        def in_a_loop(pictures: int) -> float:
            seconds = [loop(Job(next(indices), MEGAPIXEL, box)).seconds for _ in range(pictures)]
            return Sample.of(seconds).median

        in_a_loop(2)
        asyncio.run(serve_callers(server, 2, stock.take(4), MEGAPIXEL))
        for _ in range(plan.count(2, 1)):
            for callers in LEVELS[:levels]:
                before = in_a_loop(plan.count(10, 4))
                # The first of each caller arrive all at once; they fill the queue and are not counted.
                files = stock.take(callers + plan.count(32, 8))
                loads.setdefault(callers, []).append(asyncio.run(serve_callers(server, callers, files, MEGAPIXEL)))
                after = in_a_loop(plan.count(10, 4))
                raw.setdefault(callers, []).append(2 / (before + after))
    rows = [row(callers, raw[callers], loads[callers]) for callers in loads]
    about = f"{plan.subject.name}, one box on distinct megapixels"
    notes = ["ratio: answers a second over those of the server's own model in a loop, before and after."]
    return [
        Table(
            f"Throughput under load, {about}",
            rows,
            Bars("callers", "ratio", "throughput / own model in a loop", spread=("ratio low", "ratio high"), goal=0.97),
            notes,
        ),
        Table(f"Waiting under load, {about}", waiting(rows), Lines("callers", "ms", ("callers", "ms"), "what", True)),
    ]


def row(callers: int, raw: list[float], runs: list[tuple[Load, Probe]]) -> Row:
    """What one level came to."""
    rates = [rate(load.ends, min(callers, len(load.ends) - 2)) for load, _ in runs]
    share = Sample.of([own / bare for own, bare in zip(rates, raw, strict=True)])
    # Of callers that were there from the beginning, the first answers come sooner than any later one.
    latencies = [value for load, _ in runs for value in load.latencies[min(callers, len(load.latencies) // 2) :]]
    health = [value for _, probe in runs for value in probe.health]
    metrics = [value for _, probe in runs for value in probe.metrics]
    delays = [value for load, _ in runs for value in load.delays]
    return {
        "callers": callers,
        "ratio": share.median,
        "ratio low": share.low,
        "ratio high": share.high,
        "a second": Sample.of(rates).median,
        "p50 ms": quantile(latencies, 0.5) * 1000,
        "p99 ms": quantile(latencies, 0.99) * 1000,
        "p99/p50": quantile(latencies, 0.99) / quantile(latencies, 0.5),
        "refused": Sample.of([load.refused_share for load, _ in runs]).median,
        "told to wait s": quantile(delays, 0.5) if delays else None,
        "health p99 ms": quantile(health, 0.99) * 1000 if health else None,
        "metrics p99 ms": quantile(metrics, 0.99) * 1000 if metrics else None,
        "answers": sum(len(load.ends) for load, _ in runs),
    }


def waiting(rows: list[Row]) -> list[Row]:
    """The same by what was waited for, to be drawn."""
    kinds = ("p50 ms", "p99 ms", "health p99 ms", "metrics p99 ms")
    return [{"what": kind, "callers": each["callers"], "ms": each[kind]} for kind in kinds for each in rows]


if __name__ == "__main__":
    run("callers", measure, __doc__)
