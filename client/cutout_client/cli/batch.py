"""What commands on pictures share: pictures and folders in, files out, several at once."""

import argparse
import re
from pathlib import Path
from typing import Protocol

from cutout_client.cli import connection, console, folders
from cutout_client.cli.kept import Keeper
from cutout_client.cli.outcomes import Outcome, describe
from cutout_client.cli.progress import ProgressLine
from cutout_client.cli.question import Question
from cutout_client.cli.stopping import INTERRUPTED, Stop
from cutout_client.cli.tally import Tally
from cutout_client.cli.work import Work, on_all, serves
from cutout_client.exports import EXPORTS
from cutout_client.saving import FORMATS


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
    files.add_argument("--again", action="store_true", help="ask about what an earlier run has done, too")
    files.add_argument(
        "--most-failures",
        type=_most_failures,
        metavar="N[%]",
        help="begin no more pictures when more have failed (default: all may)",
    )
    files.add_argument("--json", action="store_true", help="print one JSON document a picture instead of a table")
    files.add_argument("--quiet", action="store_true", help="print errors alone")


def formats_of(args: argparse.Namespace) -> list[str]:
    """What to write for each picture; wrong flags end the program."""
    formats = [form.strip() for form in args.format.split(",") if form.strip()]
    unknown = [form for form in formats if form not in FORMATS]
    if unknown or not formats:
        args.parser.error(f"--format takes {', '.join(FORMATS)}; got {args.format!r}")
    if args.jobs < 1:
        args.parser.error("--jobs must be at least 1")
    return formats


def run(args: argparse.Namespace, question: Question, verb: str, report: Report) -> int:
    """Does every picture, whatever becomes of the others; 1 when one of them failed, 130 when it was interrupted.

    Args:
        args: The flags of `folders.add_pictures`, `add_output` and `connection.add_to`.
        question: Asked about each picture that an earlier run has not done.
        verb: Such as "Segmenting", beside the progress bar.
        report: Printed unless the flags want something else.

    Raises:
        CutoutError: There is no server, or it lets nobody in with this key.
    """
    formats = formats_of(args)
    jobs = list(folders.jobs(args.images, args.out))
    exports = {form: EXPORTS[form](args.out / form) for form in formats if form in EXPORTS}
    tally = Tally(len(jobs), exports)
    terminal = console.stderr()
    line = ProgressLine(verb, len(jobs), terminal, disable=args.quiet or not terminal.is_terminal)
    keeper = Keeper(args.out, question, args.again)
    with connection.connect(args) as client:
        serves(client)  # or fails once, instead of once for every picture
        keeper.drop_datasets()
        with Stop(terminal, hurry=client.close) as stop:  # a second Ctrl-C does not cost the list of failures
            with line:
                work = Work(client, question, formats, keeper, stop, line, _most(args, len(jobs)))
                for outcome in on_all(work, jobs, args.jobs):
                    tally.add(outcome)
                    if args.json:
                        console.write_json(describe(outcome))
                    report.add(outcome)
                tally.write_datasets(keeper, coco="coco" in formats)
            told = not (args.json or args.quiet)
            if told:
                report.print()
            tally.print_failures(stop)
            if told:
                tally.print_end(args.out)
    return INTERRUPTED if stop.signals else int(tally.done < len(jobs))


def _most_failures(text: str) -> str:
    if not re.fullmatch(r"\d+%?", text):
        raise argparse.ArgumentTypeError(
            f"expected a number of pictures, such as 20, or a share, such as 5%; got {text!r}"
        )
    return text


def _most(args: argparse.Namespace, total: int) -> int:
    """How many pictures may fail."""
    most: str | None = args.most_failures
    if most is None:
        return total
    return total * int(most[:-1]) // 100 if most.endswith("%") else int(most)
