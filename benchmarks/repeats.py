"""The same picture from many callers: at once, and again.

python benchmarks/repeats.py [--model NAME] [--quick] [--json FILE]
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import httpx
from cutout_client import AsyncClient
from harness.photographs import Stock, boxes
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, interleave, ratio
from harness.scenario import Plan, run
from harness.servers import Running

CALLERS = 8
DISTINCT = f"{CALLERS} callers, {CALLERS} new pictures"


def measure(plan: Plan) -> list[Table]:
    """Times of a volley of calls, and how many passes of the encoder each cost."""
    stock, passes = Stock(), dict[str, list[float]]()
    with ExitStack() as stack:
        server = stack.enter_context(plan.serving(plan.subject))
        known = stock.take(1) * CALLERS
        volley(server, known)

        def counted(name: str, files: Callable[[], Sequence[bytes]]) -> Callable[[], float]:
            def turn() -> float:
                wanted, before = files(), misses(server)
                seconds = volley(server, wanted)
                passes.setdefault(name, []).append(misses(server) - before)
                return seconds

            return turn

        contenders = {
            DISTINCT: lambda: stock.take(CALLERS),
            f"{CALLERS} callers, one new picture": lambda: stock.take(1) * CALLERS,
            f"{CALLERS} callers, a known picture": lambda: known,
            "1 caller, a new picture": lambda: stock.take(1),
            "1 caller, a known picture": lambda: known[:1],
        }
        times = interleave({name: counted(name, files) for name, files in contenders.items()}, plan.count(7, 2))
    rows: list[Row] = []
    for name, values in times.items():
        speed, seconds = ratio(times[DISTINCT], values), Sample.of(values)
        rows.append(
            {
                "asked": name,
                "ratio": speed.median,
                "ratio low": speed.low,
                "ratio high": speed.high,
                "ms until all are answered": seconds.median * 1000,
                "ms low": seconds.low * 1000,
                "ms high": seconds.high * 1000,
                "encoder passes": Sample.of(passes[name]).median,
            }
        )
    title = f"Repeated pictures, {plan.subject.name}: one box each on a megapixel, all callers at once"
    figure = Bars("asked", "ms until all are answered", "ms, with quartiles", spread=("ms low", "ms high"))
    return [Table(title, rows, figure, [f"ratio: times as fast as {DISTINCT}."])]


def volley(server: Running, files: Sequence[bytes]) -> float:
    """Seconds until every caller that asked at once has its answer."""

    async def ask() -> float:
        async with AsyncClient(server.address, timeout_s=600) as client:
            await client.health()  # So that connecting is not measured.
            started = time.perf_counter()
            await asyncio.gather(*(client.segment_box(file, boxes(1)) for file in files))
            return time.perf_counter() - started

    return asyncio.run(ask())


def misses(server: Running) -> float:
    """Embeddings that were asked for and not there."""
    page = httpx.get(server.metrics_url, trust_env=False).text
    lines = [line for line in page.splitlines() if line.startswith("cutout_embeddings_cache_misses_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


if __name__ == "__main__":
    run("repeats", measure, __doc__)
