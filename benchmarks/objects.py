"""1, 8 and 64 boxes on one 12-megapixel picture: what more objects cost beyond the encoder, in time and memory.

python benchmarks/objects.py [--model NAME] [--quick] [--json FILE]
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

import psutil
from cutout_client import Client
from harness.loops import Job, Loop
from harness.photographs import Stock, boxes
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, interleave
from harness.scenario import Plan, run
from harness.servers import Running

SIZE = (3000, 4000)
COUNTS = (1, 8, 64)
# The predictor makes every mask at full size as float32, thresholds and copies it.
OFFICIAL_BYTES_PER_OBJECT = 12 * SIZE[0] * SIZE[1]


def measure(plan: Plan) -> list[Table]:
    """Distinct pictures, all counts in turn; a server of its own for each count, so that its peak is that count's."""
    encode_ms: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    stock, indices = Stock(SIZE), count()
    with ExitStack() as stack:
        official = stack.enter_context(plan.loop("official", plan.subject))
        contenders: dict[str, Callable[[], float]] = {}
        servers: dict[str, Running] = {}
        for number in COUNTS[: plan.count(3, 2)]:
            contenders[f"official, {number}"] = _loop(official, number, indices, peaks)
        for number in COUNTS:
            name = f"server, {number}"
            servers[name] = stack.enter_context(plan.serving(plan.subject))
            client = stack.enter_context(Client(servers[name].address, timeout_s=600))
            contenders[name] = _served(client, number, stock, encode_ms.setdefault(name, []))
        times = interleave(contenders, plan.count(5, 2))
        peaks.update({name: server.peak_bytes() for name, server in servers.items()})
    rows: list[Row] = []
    for name, values in times.items():
        seconds = Sample.of(values)
        encode = Sample.of(encode_ms[name][1:]).median if name in encode_ms else None
        beyond = None if encode is None else seconds.median * 1000 - encode
        rows.append(
            {
                "way, objects": name,
                "ms": seconds.median * 1000,
                "ms low": seconds.low * 1000,
                "ms high": seconds.high * 1000,
                "ms beyond the encoder": beyond,
                "peak MiB": peaks[name] / 2**20,
            }
        )
    one = next(row["ms beyond the encoder"] for row in rows if row["way, objects"] == "server, 1")
    for each in rows:
        beyond = each["ms beyond the encoder"]
        each["ratio to one object"] = None if beyond is None else beyond / one
    title = f"Objects in a 12-megapixel picture, {plan.subject.name}"
    notes = ["The server's time is the caller's, from the JPEG file on; the predictor has its pixels in hand."]
    figures = (
        Bars("way, objects", "ratio to one object", "time beyond the encoder / that of one object", goal=2.0),
        Bars("way, objects", "peak MiB", "peak memory of the process, MiB"),
    )
    return [
        Table(title, rows, figures[0], notes),
        Table(f"Memory: {title}", [_memory(row) for row in rows], figures[1]),
    ]


def _memory(row: Row) -> Row:
    return {key: row[key] for key in ("way, objects", "peak MiB")}


def _loop(loop: Loop, number: int, indices: "count[int]", peaks: dict[str, int]) -> Callable[[], float]:
    def turn() -> float:
        if psutil.virtual_memory().available < 2**30 + number * OFFICIAL_BYTES_PER_OBJECT:
            raise MemoryError(f"the official predictor needs more memory for {number} objects than is free")
        outcome = loop(Job(next(indices), SIZE, boxes(number, SIZE)))
        peaks.setdefault(f"official, {number}", outcome.peak_bytes)  # Of the first round, in which fewer came before.
        return outcome.seconds

    return turn


def _served(client: Client, number: int, stock: Stock, encode_ms: list[float]) -> Callable[[], float]:
    prompts = boxes(number, SIZE)

    def turn() -> float:
        (file,) = stock.take(1)
        started = time.perf_counter()
        answer = client.segment_box(file, prompts)
        seconds = time.perf_counter() - started
        encode_ms.append(answer.timings.encode_ms)
        return seconds

    return turn


if __name__ == "__main__":
    run("objects", measure, __doc__)
