"""The frame of every benchmark: its arguments, and what becomes of its report."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.fitting import fitted
from harness.loops import Loop
from harness.report import Report, Table
from harness.servers import Running, serving
from harness.subjects import PUBLISHED, Subject, published


@dataclass(frozen=True)
class Plan:
    """What a benchmark is asked to do.

    Attributes:
        subject: The model under test.
        quick: Whether a glance within a minute is wanted instead of figures to be kept.
        serving: Starts a server with a model and further settings.
        loop: Starts a loop of that kind around a model.
    """

    subject: Subject
    quick: bool = False
    serving: Callable[..., AbstractContextManager[Running]] = serving
    loop: Callable[[Literal["official", "raw"], Subject], Loop] = Loop

    def count(self, full: int, quick: int) -> int:
        """Rounds, pictures or whatever there can be fewer of."""
        return quick if self.quick else full


def run(name: str, measure: Callable[[Plan], Sequence[Table]], about: str, model: str = "sam2.1-tiny") -> None:
    """A benchmark's main: reads the command line, measures, prints, writes JSON and plots.

    Args:
        name: The file's.
        measure: The benchmark.
        about: Its module's docstring.
        model: The size that is measured unless the command line names another.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glance, within a minute")
    parser.add_argument("--json", type=Path, help="write the figures here, and plots beside it")
    parser.add_argument("--model", choices=sorted(PUBLISHED), default=model, help="published size, random weights")
    parser.add_argument("--fitted", action="store_true", help="masks that follow objects; see harness/fitting.py")
    parser.add_argument("--engine", help="as the server's model setting; default: the server's own choice")
    parser.add_argument("--precision", help="likewise")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # As any exit, it stops what was started.
    runtime = {key: value for key in ("engine", "precision") if (value := getattr(args, key))}
    plan = Plan((fitted if args.fitted else published)(args.model, runtime), args.quick)
    tables = list(measure(plan))
    conditions = {"model": plan.subject.name, "quick": args.quick, "runtime": runtime or "the server's own choice"}
    report = Report(name, tables, conditions)
    print(report, flush=True)
    if args.json:
        report.write(args.json)
