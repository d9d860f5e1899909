"""The line on a terminal that says how far a run is."""

import threading
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from cutout_client.cli import console
from cutout_client.cli.folders import Job
from cutout_client.cli.outcomes import Outcome


class ProgressLine:
    """How many pictures are done and have failed, how fast, how long it takes, and which was begun last.

    Threads may share it.
    """

    def __init__(self, verb: str, total: int, terminal: Console, *, disable: bool) -> None:
        self._lock = threading.Lock()
        self._total = total
        self._ended = self._asked = self._failed = 0
        self._began = time.monotonic()
        columns = (
            TextColumn(verb),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("[red]{task.fields[failed]}"),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        self._progress = Progress(*columns, console=terminal, transient=True, disable=disable)
        self._task = self._progress.add_task("", total=total, pace="", failed="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begins(self, job: Job) -> None:
        """Takes note of a picture that is begun."""
        self._progress.update(self._task, description=job.title)

    def ends(self, outcome: Outcome) -> None:
        """Takes note of one that is done."""
        with self._lock:
            self._ended += 1
            self._asked += not outcome.kept
            self._failed += outcome.error is not None
            failed = f"{self._failed} failed" if self._failed else ""
            self._progress.update(self._task, completed=self._ended, failed=failed, pace=self._pace())

    def _pace(self) -> str:
        """By the pictures that were asked about: answers that were kept take no time."""
        if not self._asked:
            return ""
        each_s = (time.monotonic() - self._began) / self._asked
        rate = f"{1 / each_s:.1f}/s" if each_s < 1 else f"{each_s:.1f} s each"
        return f"{rate}, {console.in_time((self._total - self._ended) * each_s)} left"
