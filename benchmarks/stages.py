"""Where the time of a request goes: a megapixel's JPEG with one box, one caller, distinct pictures.

python benchmarks/stages.py [--model NAME] [--quick] [--json FILE]
"""

import time

from cutout_client import Client
from harness.photographs import MEGAPIXEL, Stock, boxes
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, quantile
from harness.scenario import Plan, run

STAGES = ("queue", "decode", "encode", "prompt", "masks")


def measure(plan: Plan) -> list[Table]:
    """The server's own account of its stages, and what the caller waited beyond it."""
    taken: dict[str, list[float]] = {name: [] for name in (*STAGES, "rest of the server", "wire and client", "all")}
    box, warmups = boxes(1, MEGAPIXEL), 2
    with plan.serving(plan.subject) as server, Client(server.address, timeout_s=600) as client:
        for turn, file in enumerate(Stock().take(warmups + plan.count(60, 8))):
            started = time.perf_counter()
            answer = client.segment_box(file, box)
            waited_ms = (time.perf_counter() - started) * 1000
            if turn < warmups:
                continue
            stages = {name: getattr(answer.timings, f"{name}_ms") for name in STAGES}
            stages["rest of the server"] = answer.timings.total_ms - sum(stages.values())
            stages["wire and client"] = waited_ms - answer.timings.total_ms
            for name, ms in {**stages, "all": waited_ms}.items():
                taken[name].append(ms)
    whole = Sample.of(taken["all"]).median
    rows: list[Row] = []
    for name, values in taken.items():
        ms = Sample.of(values)
        rows.append(
            {
                "stage": name,
                "share of all": ms.median / whole,
                "ms": ms.median,
                "ms low": ms.low,
                "ms high": ms.high,
                "ms p99": quantile(values, 0.99),
            }
        )
    title = f"Stages of a request, {plan.subject.name}: medians of {len(taken['all'])} pictures"
    return [Table(title, rows, Bars("stage", "ms", "ms, with quartiles", spread=("ms low", "ms high")))]


if __name__ == "__main__":
    run("stages", measure, __doc__)
