"""Beside perceptra-seg 0.2.1, a published server of the same kind, on the same weights: SAM ViT-B, random.

    python benchmarks/peer.py [--quick] [--json FILE]

It runs in fp32, which is all that it has on a CPU; Cutout runs what it chooses by itself, over REST as the peer and
over gRPC. The peer is installed into benchmarks/out/peer-venv at the first run; where that fails, nothing is measured.
"""

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
from harness import peer, sides
from harness.callers import probing
from harness.iou import iou
from harness.photographs import Stock, boxes, photograph
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, interleave, quantile, ratio
from harness.scenario import Plan, run
from harness.servers import gateway
from harness.sides import Side
from PIL import Image

PEER = "perceptra-seg, REST"


def measure(plan: Plan) -> list[Table]:
    """One scenario after the other; in each, the sides in turn."""
    with ExitStack() as stack:
        try:
            other = stack.enter_context(peer.serving(plan.subject))
        except peer.MissingError as error:
            return [Table(f"perceptra-seg: not measured. {error}", [])]
        server = stack.enter_context(plan.serving(plan.subject))
        front = stack.enter_context(gateway(server))
        both = [
            sides.perceptra(PEER, other),
            sides.rest("Cutout, REST", front, server),
            sides.grpc("Cutout, gRPC", server),
        ]
        stock = Stock()
        for side in both:
            side.ask(stock.take(1)[0], boxes(1))
        return [_alone(plan, both, stock), _together(plan, both, stock), _same_masks(plan, both)]


def _alone(plan: Plan, both: Sequence[Side], stock: Stock) -> Table:
    """One caller: distinct pictures, one picture with many prompts, many boxes at once."""
    prompts = plan.count(20, 2)
    numbers = (1, 8, 32)[: plan.count(3, 2)]
    rows: list[Row] = []

    def compare(what: str, work: Callable[[Side], int], rounds: int) -> None:
        sizes: dict[str, int] = {}

        def turn(side: Side) -> float:
            started = time.perf_counter()
            sizes[side.name] = work(side)
            return time.perf_counter() - started

        times = interleave({side.name: partial(turn, side) for side in both}, rounds, warmups=0)
        for name, values in times.items():
            speed, seconds = ratio(times[PEER], values).median, Sample.of(values)
            rows.append(
                {
                    "what": what,
                    "side": name,
                    "ratio": speed,
                    "s": seconds.median,
                    "s low": seconds.low,
                    "s high": seconds.high,
                    "bytes answered": sizes[name],
                    "what, side": f"{what}: {name}",
                }
            )

    def one_by_one(side: Side) -> int:
        (file,) = stock.take(1)
        return sum(side.ask(file, box[None]) for box in boxes(prompts))

    compare("a new picture, a box", lambda side: side.ask(stock.take(1)[0], boxes(1)), plan.count(3, 1))
    compare(f"a new picture, {prompts} boxes one by one", one_by_one, 1)
    for number in numbers[1:]:
        compare(
            f"a new picture, {number} boxes at once", lambda side, n=number: side.ask(stock.take(1)[0], boxes(n)), 1
        )
    figure = Bars("what, side", "ratio", "times as fast as perceptra-seg")
    return Table("One caller, megapixels, SAM ViT-B", rows, figure)


def _together(plan: Plan, both: Sequence[Side], stock: Stock) -> Table:
    """Many callers with a new picture each, all at once, and health meanwhile."""
    rows: list[Row] = []
    for callers in (4, 16) if not plan.quick else (2,):
        took: dict[str, float] = {}
        for side in both:
            seconds, health = asyncio.run(_volley(side, stock.take(callers)))
            took[side.name] = seconds
            rows.append(
                {
                    "callers": callers,
                    "side": side.name,
                    "ratio": took[PEER] / seconds,
                    "a second": callers / seconds,
                    "health p50 ms": quantile(health, 0.5) * 1000,
                    "health p99 ms": quantile(health, 0.99) * 1000,
                    "health asked": len(health),
                    "callers, side": f"{callers}: {side.name}",
                }
            )
    figure = Bars("callers, side", "ratio", "throughput / perceptra-seg's")
    return Table("Callers at once, one box on a new megapixel each, SAM ViT-B", rows, figure)


async def _volley(side: Side, files: Sequence[bytes]) -> tuple[float, list[float]]:
    async with side.asynchronous() as ask, probing(side.health(), side.health()) as probe:
        started = time.perf_counter()
        await asyncio.gather(*(ask(file, boxes(1)) for file in files))
        seconds = time.perf_counter() - started
        await asyncio.sleep(0.1)  # A health check that was held up all the time is answered now, and counts.
    return seconds, probe.health


def _same_masks(plan: Plan, both: Sequence[Side]) -> Table:
    """IoU of both masks of a few boxes, from a lossless file."""
    found = []
    for index in range(2000, 2000 + plan.count(3, 1)):
        buffer = io.BytesIO()
        Image.fromarray(photograph(index)).save(buffer, "PNG", compress_level=1)
        theirs, ours = (side.mask(buffer.getvalue(), boxes(1)) for side in (both[0], both[-1]))
        found.append(iou(theirs, ours))
    row = {"photographs": len(found), "mean IoU": float(np.mean(found)), "least IoU": min(found)}
    return Table("Are they the same masks?", [row])


if __name__ == "__main__":
    run("peer", measure, __doc__, model="sam-vit-b")
