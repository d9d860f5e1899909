"""What commands on pictures share: pictures and folders in, files out, several at once."""

import argparse
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cutout_client.cli import connection, console
from cutout_client.client import Client
from cutout_client.coco import CocoDataset
from cutout_client.errors import CutoutError
from cutout_client.results import Segmentation
from cutout_client.saving import FORMATS, write_json

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

Ask = Callable[[Client, Path], Segmentation]


@dataclass(frozen=True)
class Job:
    """One picture.

    Attributes:
        source: The file.
        title: What tables and the COCO file call it.
        folder: Where its files go.
        name: How their names begin.
    """

    source: Path
    title: str
    folder: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """What a job came to: a result with its files, or an error."""

    job: Job
    result: Segmentation | None = None
    files: Sequence[Path] = ()
    error: Exception | None = None


class Report(Protocol):
    """What people read in the end."""

    def add(self, outcome: Outcome) -> None:
        """Takes note of one picture; its result is not to be kept."""

    def print(self) -> None:
        """Prints it."""


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Adds the pictures, before every other argument."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of them, however deep"
    )


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
    """Does every picture; 1 when one of them failed.

    Args:
        args: The flags of `add_pictures`, `add_output` and `connection.add_to`.
        ask: Asks the server about one picture.
        verb: Such as "Segmenting", beside the progress bar.
        report: Printed unless the flags want something else.
    """
    formats = formats_of(args)
    work = partial(_work, ask, [form for form in formats if form != "coco"])
    dataset = CocoDataset()
    total = failed = 0
    with connection.connect(args) as client, _progress(args, verb) as progress:
        jobs = list(_jobs(args.images, args.out))
        bar = progress.add_task("", total=len(jobs))
        for outcome in _work_on_all(partial(work, client), jobs, args.jobs, lambda _: progress.advance(bar)):
            total += 1
            if outcome.result is None:
                failed += 1
                console.write_error(f"{outcome.job.title}: {outcome.error}", progress.console)
            elif "coco" in formats:
                dataset.add(outcome.job.title, outcome.result)
            if args.json:
                console.write_json(_describe(outcome))
            report.add(outcome)
    if "coco" in formats and failed < total:
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "coco.json", dataset.to_dict())
    if not (args.json or args.quiet):
        report.print()
        console.stdout().print(f"\n{total - failed} of {total} pictures done, files in {args.out}/", soft_wrap=True)
    return int(failed > 0)


def _jobs(images: Iterable[Path], out: Path) -> Iterator[Job]:
    taken: set[tuple[Path, str]] = set()
    for image in images:
        for source in _pictures(image):
            title = source.relative_to(image) if image.is_dir() else Path(source.name)
            folder, name = out / title.parent, source.stem
            if (folder, name) in taken:  # cat.jpg beside cat.png
                name = source.name
            while (folder, name) in taken:
                name += "_"
            taken.add((folder, name))
            yield Job(source, title.as_posix(), folder, name)


def _pictures(image: Path) -> list[Path]:
    if not image.is_dir():
        return [image]
    found = sorted(path for path in image.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"there is no picture in {image}")
    return found


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
    try:
        result = ask(client, job.source)
        return Outcome(job, result, result.save(job.folder, formats, name=job.name))
    except (CutoutError, OSError, ValueError) as error:
        return Outcome(job, error=error)


def _progress(args: argparse.Namespace, verb: str) -> Progress:
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = console.stderr()
    return Progress(*columns, console=terminal, transient=True, disable=args.quiet or not terminal.is_terminal)


def _describe(outcome: Outcome) -> dict[str, Any]:
    result, error = outcome.result, outcome.error
    if result is None:
        described: dict[str, Any] = {"message": str(error)}
        if isinstance(error, CutoutError):
            described = {
                "code": error.code.name,
                "reason": error.reason,
                "message": error.message,
                "violations": [asdict(violation) for violation in error.violations],
                "request_id": error.request_id,
            }
        return {"picture": str(outcome.job.source), "error": described}
    return {
        "picture": str(outcome.job.source),
        "width": result.image.width,
        "height": result.image.height,
        **({"concepts": result.concepts.to_dict()} if result.concepts else {}),
        **({"rewriting": asdict(result.rewriting)} if result.rewriting else {}),
        "objects": [
            {"label": each.label, "score": each.score, "box": each.box, "area": each.area, "prompt": each.prompt_index}
            | ({"concepts": each.concepts.to_dict()} if each.concepts else {})
            for each in result
        ],
        "omissions": [asdict(omission) for omission in result.omissions],
        "models": result.models,
        "timings": asdict(result.timings),
        "request_id": result.request_id,
        "files": [str(path) for path in outcome.files],
    }
