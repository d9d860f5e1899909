"""The official predictor in a loop, the server's own model in a loop, and the server: one box on distinct pictures.

    python benchmarks/naive.py [--model sam-vit-b] [--quick] [--json FILE]

Each side gets the same photographs with its pixels in hand; the server alone gets JPEG files, by gRPC, and its time is
the caller's.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

import numpy as np
from cutout_client import Client
from harness.iou import iou
from harness.loops import Job, Loop
from harness.photographs import MEGAPIXEL, boxes, jpeg, photograph
from harness.plots import Bars
from harness.report import Table
from harness.rounds import Sample, interleave, ratio
from harness.scenario import Plan, run

OFFICIAL, PLAIN, RAW, SERVED = (
    "official predictor, fp32",
    "own model in a loop, eager fp32",
    "own model in a loop",
    "server, one caller",
)


def measure(plan: Plan) -> list[Table]:
    """Times, memory and equality of all."""
    size, box = MEGAPIXEL, boxes(1, MEGAPIXEL)
    with ExitStack() as stack:
        loops = {
            OFFICIAL: stack.enter_context(plan.loop("official", plan.subject)),
            PLAIN: stack.enter_context(plan.loop("raw", plan.subject.plain())),
            RAW: stack.enter_context(plan.loop("raw", plan.subject)),
        }
        server = stack.enter_context(plan.serving(plan.subject))
        client = stack.enter_context(Client(server.address, timeout_s=600))
        peaks: dict[str, int] = {}

        def loop(name: str) -> Callable[[], float]:
            indices = count()

            def turn() -> float:
                outcome = loops[name](Job(next(indices), size, box))
                peaks[name] = outcome.peak_bytes
                return outcome.seconds

            return turn

        indices = count()

        def ask() -> float:
            file = jpeg(photograph(next(indices), size))
            started = time.perf_counter()
            client.segment_box(file, box)
            return time.perf_counter() - started

        times = interleave({name: loop(name) for name in loops} | {SERVED: ask}, plan.count(15, 3))
        peaks[SERVED] = server.peak_bytes()
        agreement = equality(plan, loops, client)
    rows = []
    for name, values in times.items():
        speed, seconds = ratio(times[OFFICIAL], values), Sample.of(values)
        rows.append(
            {
                "way": name,
                "runs": loops[RAW if name == SERVED else name].runtime,
                "ratio": speed.median,
                "ratio low": speed.low,
                "ratio high": speed.high,
                "ms": seconds.median * 1000,
                "ms low": seconds.low * 1000,
                "ms high": seconds.high * 1000,
                "peak MiB": peaks[name] / 2**20,
                "mean IoU": float(np.mean(agreement[name])),
                "least IoU": min(agreement[name]),
            }
        )
    title = f"One box on a megapixel, {plan.subject.name}: times as fast as the official predictor"
    figure = Bars("way", "ratio", "times as fast as the official predictor", spread=("ratio low", "ratio high"))
    return [Table(title, rows, figure, ["IoU: of the masks with the official predictor's, photograph by photograph."])]


def equality(plan: Plan, loops: dict[str, Loop], client: Client) -> dict[str, list[float]]:
    """IoU of each way's masks with the official ones, over boxes on photographs that nobody measured on."""
    size, prompts = MEGAPIXEL, boxes(4, MEGAPIXEL)
    agreement: dict[str, list[float]] = {name: [] for name in (*loops, SERVED)}
    for index in range(1000, 1000 + plan.count(8, 2)):
        # The file's pixels would differ from the photograph's by JPEG's losses: a lossless upload it is.
        answer = client.segment_box(photograph(index, size), prompts)
        masks = {name: loop(Job(index, size, prompts, answer=True)).masks for name, loop in loops.items()}
        served = np.zeros((len(prompts), *size), bool)  # An empty mask has no object.
        for each in answer:
            served[each.prompt_index] = each.mask
        for name, own in {**masks, SERVED: served}.items():
            assert own is not None
            truth = masks[OFFICIAL]
            assert truth is not None
            agreement[name] += [iou(one, other) for one, other in zip(truth, own, strict=True)]
    return agreement


if __name__ == "__main__":
    run("naive", measure, __doc__)
