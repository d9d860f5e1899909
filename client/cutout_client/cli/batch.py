"""What commands on pictures share: pictures and folders in, files out, several at once."""

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cutout_client.cli import connection, console, folders
from cutout_client.cli.folders import Job
from cutout_client.cli.outcomes import Outcome, describe, said
from cutout_client.client import Client
from cutout_client.coco import CocoDataset
from cutout_client.errors import (
    CutoutError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from cutout_client.results import Segmentation
from cutout_client.saving import FORMATS, write_json

Ask = Callable[[Client, Path], Segmentation]


class Report(Protocol):
    """What people read in the end."""

    def add(self, outcome: Outcome) -> None:
        """Takes note of one picture; its result is not to be kept."""

    def print(self) -> None:
        """Prints it."""


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what becomes of the answers."""
    files = parser.add_argument_group("output")
    files.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="default: %(default)s")
    known = ", ".join(FORMATS)
    files.add_argument("--format", default="overlay,png", metavar="LIST", help=f"of {known} (default: %(default)s)")
    files.add_argument("--jobs", type=int, default=4, metavar="N", help="pictures at once (default: %(default)s)")
    files.add_argument("--json", action="store_true", help="print one JSON document a picture instead of a table")
    files.add_argument("--quiet", action="store_true", help="print errors alone")


def formats_of(args: argparse.Namespace) -> list[str]:
    """What to write for each picture; wrong flags end the program with its usage."""
    formats = [form.strip() for form in args.format.split(",") if form.strip()]
    unknown = [form for form in formats if form not in FORMATS]
    if unknown or not formats:
        args.parser.error(f"--format takes {', '.join(FORMATS)}; got {args.format!r}")
    if args.jobs < 1:
        args.parser.error("--jobs must be at least 1")
    return formats


def run(args: argparse.Namespace, ask: Ask, verb: str, report: Report) -> int:
    """Does every picture, whatever becomes of the others; 1 when one of them failed.

    Args:
        args: The flags of `folders.add_pictures`, `add_output` and `connection.add_to`.
        ask: Asks the server about one picture.
        verb: Such as "Segmenting", beside the progress bar.
        report: Printed unless the flags want something else.

    Raises:
        CutoutError: There is no server, or it lets nobody in with this key.
    """
    formats = formats_of(args)
    work = partial(_work, ask, [form for form in formats if form != "coco"])
    jobs = list(folders.jobs(args.images, args.out))
    tally = _Tally(len(jobs))
    with connection.connect(args) as client, _progress(args, verb) as progress:
        _reach(client)
        bar = progress.add_task("", total=len(jobs))
        for outcome in _work_on_all(partial(work, client), jobs, args.jobs, lambda _: progress.advance(bar)):
            tally.add(outcome)
            if args.json:
                console.write_json(describe(outcome))
            report.add(outcome)
            if outcome.error and _is_over(client, outcome.error):
                break
    if "coco" in formats and tally.answered:
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "coco.json", tally.dataset.to_dict())
    if not (args.json or args.quiet):
        report.print()
    tally.print_failures()
    if not (args.json or args.quiet):
        console.stdout().print(f"\n{tally.done} of {len(jobs)} pictures done, files in {args.out}/", soft_wrap=True)
    return int(tally.done < len(jobs))


@dataclass
class _Tally:
    """What is known about a run so far."""

    total: int
    done: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    dataset: CocoDataset = field(default_factory=CocoDataset)

    def add(self, outcome: Outcome) -> None:
        if outcome.result is not None:
            self.answered += 1
            self.dataset.add(outcome.job.title, outcome.result)
        if outcome.error is None:
            self.done += 1
        else:
            self.failures.append(f"{outcome.job.title}: {said(outcome.error)}")

    def print_failures(self) -> None:
        for failure in self.failures:
            console.write_error(failure)
        if unasked := self.total - self.done - len(self.failures):
            console.write_error(f"{unasked} more pictures were not asked about: they would have failed alike")


def _reach(client: Client) -> None:
    """Fails once for a server that is not there, instead of once for every picture."""
    _serves(client)


def _serves(client: Client) -> bool:
    with suppress(NotFoundError, UnimplementedError):
        return client.health() == "serving"
    return True  # it knows nothing of health; what it knows will show


def _is_over(client: Client, error: Exception) -> bool:
    """Whether the pictures that are left would fail in the same way; one may have cost a server that is back by now."""
    if isinstance(error, UnavailableError):
        try:
            return not _serves(client)
        except CutoutError:
            return True
    return isinstance(error, UnauthenticatedError)


def _work_on_all(
    work: Callable[[Job], Outcome], jobs: Sequence[Job], threads: int, done: Callable[[object], None]
) -> Iterator[Outcome]:
    """Outcomes in the order of the jobs; `done` is called whenever there is one more, in whatever order."""
    pool = ThreadPoolExecutor(threads)
    try:
        futures = deque(pool.submit(work, job) for job in jobs)
        for future in futures:
            future.add_done_callback(done)
        while futures:  # results are let go as they are given
            yield futures.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what still runs ends with the client


def _work(ask: Ask, formats: Sequence[str], client: Client, job: Job) -> Outcome:
    """One picture. Whatever goes wrong is its own, and what can be written is."""
    if job.error is not None:
        return Outcome(job, error=job.error)
    try:
        result = ask(client, job.source)
    except Exception as error:  # noqa: BLE001  # Pillow and NumPy raise what they like
        return Outcome(job, error=error)
    files: list[Path] = []
    failures: list[str] = []
    for form in formats:
        try:
            files += result.save(job.folder, [form], name=job.name)
        except Exception as error:  # noqa: BLE001  # as above
            failures.append(f"{form} was not written: {said(error)}")
    return Outcome(job, result, files, ValueError("; ".join(failures)) if failures else None)


def _progress(args: argparse.Namespace, verb: str) -> Progress:
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = console.stderr()
    return Progress(*columns, console=terminal, transient=True, disable=args.quiet or not terminal.is_terminal)
