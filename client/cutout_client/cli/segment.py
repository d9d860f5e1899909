"""`cutout segment`: pictures and folders in, files out."""

import argparse
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cutout_client.cli import connection, console, prompts
from cutout_client.client import Client
from cutout_client.coco import CocoDataset
from cutout_client.errors import CutoutError
from cutout_client.results import Segmentation
from cutout_client.saving import FORMATS, write_json

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


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


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("segment", help="cut objects out of pictures", allow_abbrev=False)
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of them, however deep"
    )
    prompts.add_to(parser)
    files = parser.add_argument_group("output")
    files.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="default: %(default)s")
    known = ", ".join(FORMATS)
    files.add_argument("--format", default="overlay,png", metavar="LIST", help=f"of {known} (default: %(default)s)")
    files.add_argument("--jobs", type=int, default=4, metavar="N", help="pictures at once (default: %(default)s)")
    files.add_argument("--json", action="store_true", help="print one JSON document a picture instead of a table")
    files.add_argument("--quiet", action="store_true", help="print errors alone")
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Does every picture; 1 when one of them failed."""
    formats = _formats(args)
    ask = prompts.asker(args, outlines="polygons" in formats)
    work = partial(_work, ask, [form for form in formats if form != "coco"])
    dataset = CocoDataset()
    rows: list[tuple[str, ...]] = []
    failed = 0
    with connection.connect(args) as client, _progress(args) as progress:
        jobs = list(_jobs(args.images, args.out))
        bar = progress.add_task("", total=len(jobs))
        for outcome in _work_on_all(partial(work, client), jobs, args.jobs, lambda _: progress.advance(bar)):
            if outcome.result is None:
                failed += 1
                console.write_error(f"{outcome.job.title}: {outcome.error}", progress.console)
            elif "coco" in formats:
                dataset.add(outcome.job.title, outcome.result)
            if args.json:
                console.write_json(_describe(outcome))
            rows.append(_row(outcome))
    if "coco" in formats and failed < len(jobs):
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "coco.json", dataset.to_dict())
    if not (args.json or args.quiet):
        _print_table(rows, failed, args.out)
    return int(failed > 0)


def _formats(args: argparse.Namespace) -> list[str]:
    formats = [form.strip() for form in args.format.split(",") if form.strip()]
    unknown = [form for form in formats if form not in FORMATS]
    if unknown or not formats:
        args.parser.error(f"--format takes {', '.join(FORMATS)}; got {args.format!r}")
    if args.jobs < 1:
        args.parser.error("--jobs must be at least 1")
    return formats


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


def _work(ask: prompts.Ask, formats: Sequence[str], client: Client, job: Job) -> Outcome:
    try:
        result = ask(client, job.source)
        return Outcome(job, result, result.save(job.folder, formats, name=job.name))
    except (CutoutError, OSError, ValueError) as error:
        return Outcome(job, error=error)


def _progress(args: argparse.Namespace) -> Progress:
    columns = (TextColumn("Segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = console.stderr()
    return Progress(*columns, console=terminal, transient=True, disable=args.quiet or not terminal.is_terminal)


def _row(outcome: Outcome) -> tuple[str, ...]:
    result = outcome.result
    if result is None:
        return outcome.job.title, "failed", "", "", ""
    labels = Counter(label for label in result.labels if label)
    found = ", ".join(f"{label} x{count}" if count > 1 else label for label, count in labels.items())
    scores = sorted(each.score for each in result)
    score = " - ".join(f"{end:.2f}" for end in dict.fromkeys((scores[0], scores[-1]))) if scores else "-"
    return outcome.job.title, str(len(result)), found or "-", score, f"{result.timings.total_ms:.0f}"


def _print_table(rows: Sequence[tuple[str, ...]], failed: int, out: Path) -> None:
    table = console.table("PICTURE", "OBJECTS", "LABELS", "SCORES", "MS", right=("OBJECTS", "MS"))
    for row in rows:
        table.add_row(*row, style="red" if row[1] == "failed" else None)
    console.stdout().print(table)
    done = len(rows) - failed
    console.stdout().print(f"\n{done} of {len(rows)} pictures done, files in {out}/", soft_wrap=True)


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
        "objects": [
            {"label": each.label, "score": each.score, "box": each.box, "area": each.area, "prompt": each.prompt_index}
            for each in result
        ],
        "omissions": [asdict(omission) for omission in result.omissions],
        "models": result.models,
        "timings": asdict(result.timings),
        "request_id": result.request_id,
        "files": [str(path) for path in outcome.files],
    }
