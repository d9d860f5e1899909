"""An encoder by every engine and precision, beside the official one: times as fast, memory, and equality of masks.

python benchmarks/engines.py [--model sam2.1-small] [--quick] [--json FILE]
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import count

import numpy as np
from cutout_server.models.runtime import PRECISIONS, Engine, Precision
from harness.iou import iou
from harness.loops import Job, Loop
from harness.photographs import MEGAPIXEL, boxes
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, interleave, quantile, ratio
from harness.scenario import Plan, run

OFFICIAL = "official, eager fp32"
# fp16 is for GPUs: most CPUs only emulate it.
CHOICES = [(Engine.AUTO, Precision.AUTO)] + [
    (engine, precision)
    for engine, precisions in PRECISIONS.items()
    for precision in precisions
    if precision is not Precision.FP16
]
NOTES = [
    "IoU: of masks with the official ones, over boxes on photographs. 5% of them are below the last column.",
    "The mask decoder follows bf16 where that is named; by auto it stays in fp32.",
]


def measure(plan: Plan) -> list[Table]:
    """Encoding alone is timed; masks are compared."""
    with ExitStack() as stack:
        loops: dict[str, Loop] = {OFFICIAL: stack.enter_context(plan.loop("official", plan.subject))}
        for engine, precision in CHOICES:
            if plan.quick and engine is Engine.COMPILE:
                continue  # Which takes minutes the first time.
            chosen = replace(plan.subject, runtime=(("engine", engine.value), ("precision", precision.value)))
            name = "auto" if engine is Engine.AUTO else f"{engine.value} {precision.value}"
            loops[name] = stack.enter_context(plan.loop("raw", chosen))
        peaks: dict[str, int] = {}

        def encode(name: str) -> Callable[[], float]:
            indices = count()

            def turn() -> float:
                outcome = loops[name](Job(next(indices), MEGAPIXEL, np.empty((0, 4))))
                peaks[name] = outcome.peak_bytes
                return outcome.seconds

            return turn

        times = interleave({name: encode(name) for name in loops}, plan.count(9, 2))
        agreement = equality(plan, loops)
    rows: list[Row] = []
    for name, values in times.items():
        speed, ious = ratio(times[OFFICIAL], values), agreement[name]
        rows.append(
            {
                "encoder": name,
                "ratio": speed.median,
                "ratio low": speed.low,
                "ratio high": speed.high,
                "ms": Sample.of(values).median * 1000,
                "peak MiB": peaks[name] / 2**20,
                "mean IoU": float(np.mean(ious)),
                "least IoU": min(ious),
                "5% IoU": quantile(ious, 0.05),
            }
        )
    title = f"Encoding a megapixel, {plan.subject.name}: times as fast as the official encoder"
    figure = Bars("encoder", "ratio", "times as fast as the official encoder", spread=("ratio low", "ratio high"))
    return [Table(title, rows, figure, NOTES)]


def equality(plan: Plan, loops: dict[str, Loop]) -> dict[str, list[float]]:
    """IoU of every way's masks with the official ones, over boxes on photographs that nobody was timed on."""
    prompts = boxes(8, MEGAPIXEL)
    agreement: dict[str, list[float]] = {name: [] for name in loops}
    for index in range(1000, 1000 + plan.count(8, 2)):
        masks = {name: loop(Job(index, MEGAPIXEL, prompts, answer=True)).masks for name, loop in loops.items()}
        truth = masks[OFFICIAL]
        assert truth is not None
        for name, own in masks.items():
            assert own is not None
            agreement[name] += [iou(one, other) for one, other in zip(truth, own, strict=True)]
    return agreement


if __name__ == "__main__":
    run("engines", measure, __doc__)
