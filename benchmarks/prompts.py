"""One picture, 20 prompts one after the other: the official predictor keeps its picture set; the server its embedding.

python benchmarks/prompts.py [--model NAME] [--quick] [--json FILE]
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count

from cutout_client import Client
from harness.loops import Job, Loop
from harness.photographs import MEGAPIXEL, Stock, boxes
from harness.plots import Bars
from harness.report import Row, Table
from harness.rounds import Sample, interleave, ratio
from harness.scenario import Plan, run

PROMPTS = 20
OFFICIAL = "official predictor, set_image once"
Ask = Callable[[], object]
# Picture's file and client -> what asks for each box in turn.
Way = Callable[[bytes, Client], AbstractContextManager[Iterator[Ask]]]


def measure(plan: Plan) -> list[Table]:
    """Every round brings each way a picture that it has not seen."""
    stock, indices = Stock(), count(10**6)
    later_ms: dict[str, list[float]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        official = stack.enter_context(plan.loop("official", plan.subject))
        raw = stack.enter_context(plan.loop("raw", plan.subject))
        server = stack.enter_context(plan.serving(plan.subject))
        client = stack.enter_context(Client(server.address, timeout_s=600))

        def looped(loop: Loop) -> Callable[[], float]:
            return lambda: loop(Job(next(indices), MEGAPIXEL, BOXES, separately=True)).seconds

        def served(name: str) -> Callable[[], float]:
            return lambda: ask_all(WAYS[name], stock.take(1)[0], client, later_ms[name])

        contenders = {OFFICIAL: looped(official), "own model in a loop": looped(raw)}
        times = interleave(contenders | {name: served(name) for name in WAYS}, plan.count(7, 2))
    rows: list[Row] = []
    for name, values in times.items():
        speed, seconds = ratio(times[OFFICIAL], values), Sample.of(values)
        later = Sample.of(later_ms[name]).median if name in WAYS else None
        rows.append(
            {
                "way": name,
                "ratio": speed.median,
                "ratio low": speed.low,
                "ratio high": speed.high,
                "ms for all": seconds.median * 1000,
                "ms low": seconds.low * 1000,
                "ms high": seconds.high * 1000,
                "ms for each after the first": later,
            }
        )
    title = f"One megapixel picture, {PROMPTS} boxes one after the other, {plan.subject.name}"
    figure = Bars("way", "ratio", "times as fast as the official predictor", spread=("ratio low", "ratio high"))
    return [Table(title, rows, figure)]


def ask_all(way: Way, file: bytes, client: Client, later_ms: list[float]) -> float:
    """Seconds from the file in hand to the last answer; each after the first is added to `later_ms`."""
    started = time.perf_counter()
    with way(file, client) as asks:
        for number, ask in enumerate(asks):
            before = time.perf_counter()
            ask()
            if number:
                later_ms.append((time.perf_counter() - before) * 1000)
    return time.perf_counter() - started


@contextmanager
def with_file(file: bytes, client: Client) -> Iterator[Iterator[Ask]]:
    """The whole file in every request."""
    yield (partial(client.segment_box, file, [box]) for box in BOXES)


@contextmanager
def with_id(file: bytes, client: Client) -> Iterator[Iterator[Ask]]:
    """An upload, and its id in every request."""
    uploaded = client.upload(file)
    yield (partial(client.segment_box, uploaded, [box]) for box in BOXES)


@contextmanager
def in_session(file: bytes, client: Client) -> Iterator[Iterator[Ask]]:
    """One stream that keeps the embedding."""
    with client.session(file) as session:
        yield (partial(session.box, [box]) for box in BOXES)


BOXES = boxes(PROMPTS, MEGAPIXEL)
WAYS: dict[str, Way] = {
    "server, the file each time": with_file,
    "server, uploaded once": with_id,
    "server, session": in_session,
}


if __name__ == "__main__":
    run("prompts", measure, __doc__)
