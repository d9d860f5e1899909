"""How fast the built-in model is through a server: from its start to serving, a box, and everything in a picture.

    python benchmarks/builtin_speed.py [--rounds N] [--json FILE]

Photographs of one megapixel, as JPEG files over gRPC. Beside the time that a caller waits, each row has the processor
time that the server took for it: on a machine with other work it is the truer figure.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from cutout_client import Client
from harness.photographs import MEGAPIXEL, Stock, boxes
from harness.report import Report, Row, Table
from harness.rounds import Sample
from harness.servers import serving_builtin

_BOXES = 20  # Asked one after the other of each known picture.


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = measure(args.rounds)
    report = Report("builtin_speed", [Table("The built-in model through a server", rows)], {"rounds": args.rounds})
    print(report)
    if args.json:
        report.write(args.json)


def measure(rounds: int) -> list[Row]:
    """A server of its own for each round, and on it one picture of each kind after one that warms up."""
    stock, wide = Stock(), boxes(_BOXES)
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        with serving_builtin() as server, Client(server.address) as client:
            process = psutil.Process(server.pid)
            taken.setdefault("start to serving", []).append((server.ready_s, _cpu_s(process)))
            warm, known, new, whole = stock.take(4)
            client.segment_everything(warm)
            client.segment_box(known, boxes(1))
            each = [_timed(process, client.segment_box, known, box) for box in wide]
            # The kernel counts a process's time in hundredths of a second: one box alone would be a coin's toss.
            seconds, cpu_s = (sum(part) / len(each) for part in zip(*each, strict=True))
            taken.setdefault("a box, the picture known", []).append((seconds, cpu_s))
            taken.setdefault("a box, the picture new", []).append(_timed(process, client.segment_box, new, wide[0]))
            taken.setdefault("everything, the picture new", []).append(
                _timed(process, client.segment_everything, whole)
            )
    return [_row(what, parts) for what, parts in taken.items()]


def _row(what: str, parts: list[tuple[float, float]]) -> Row:
    waited = Sample.of([1000 * seconds for seconds, _ in parts])
    return {
        "what": f"{what} ({MEGAPIXEL[1]} x {MEGAPIXEL[0]})" if "picture" in what else what,
        "ms": waited.median,
        "ms low": waited.low,
        "ms high": waited.high,
        "CPU ms of the server": Sample.of([1000 * cpu_s for _, cpu_s in parts]).median,
    }


def _timed(process: psutil.Process, ask: Callable[..., object], *asked: object) -> tuple[float, float]:
    """(seconds that the caller waited, seconds of the server's processor time)."""
    began, before = time.perf_counter(), _cpu_s(process)
    ask(*asked)
    return time.perf_counter() - began, _cpu_s(process) - before


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
