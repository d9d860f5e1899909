"""`cutout analyze`: what pictures and their regions show."""

import argparse
from collections import Counter
from typing import Any

from cutout_common.overlay import color_of
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from cutout_client.cli import batch, connection, console, folders, prompts
from cutout_client.cli.outcomes import Outcome
from cutout_client.cli.question import Question
from cutout_client.concepts import Concepts
from cutout_client.exports import outlined
from cutout_client.objects import SegmentedObject
from cutout_client.results import Segmentation

MAX_ROWS = 24  # Of objects; --json lists all.


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("analyze", help="say what pictures and their regions show")
    folders.add_pictures(parser)
    what = parser.add_argument_group("what to look for, and where")
    what.add_argument(
        "--concept", nargs="+", action="extend", required=True, metavar="WORDS", help="what a picture may show"
    )
    what.add_argument(
        "--box",
        nargs="+",
        action="extend",
        type=prompts.box,
        dest="regions",
        metavar="X0,Y0,X1,Y1",
        help="the object in each box, in pixels (default: everything)",
    )
    what.add_argument(
        "--point",
        nargs="+",
        action="extend",
        type=prompts.spot,
        dest="regions",
        metavar="X,Y",
        help="the object at each point",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--template", default="", metavar="TEXT", help='default: "a photo of a {}"')
    how.add_argument("--classifier", default="", metavar="NAME", help="model that compares")
    how.add_argument("--segmenter", "--model", default="", metavar="NAME", help="model that cuts out")
    prompts.add_mask_flags(how)
    batch.add_output(parser)
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Does every picture; 1 when one of them failed."""
    options: Any = prompts.mask_options(args, outlines=outlined(batch.formats_of(args))) | {
        name: getattr(args, name) for name in ("regions", "template", "classifier", "segmenter")
    }
    return batch.run(args, Question("analyze", (args.concept,), options), "Analysing", Findings())


class Findings:
    """One picture in full; of several, a row for each."""

    def __init__(self) -> None:
        self._table = console.table("PICTURE", "CONCEPT", "", "OBJECTS", "OF THEM", "MS", right=("OBJECTS", "MS"))
        self._first: RenderableType = ""

    def add(self, outcome: Outcome) -> None:
        """Adds a row."""
        result = outcome.result
        if result is None or result.concepts is None:
            self._table.add_row(outcome.job.title, "failed", style="red")
            return
        if not self._table.row_count:
            self._first = _in_full(outcome.job.title, result)
        names = Counter(each.name for each in result)
        of_them = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in names.most_common())
        best = result.concepts.best
        ms = f"{result.timings.total_ms:.0f}"
        why = "" if result.objects else result.left_out
        count = str(len(result))
        self._table.add_row(outcome.job.title, best.concept, f"{best.score:.2f}", count, of_them or why or "-", ms)

    def print(self) -> None:
        """Prints it."""
        console.stdout().print(self._first if self._table.row_count == 1 and self._first else self._table)


def _in_full(title: str, result: Segmentation) -> RenderableType:
    head = Text.assemble((title, "bold"), f"  {result.image.width} x {result.image.height}")
    models = ", ".join(dict.fromkeys(result.models))
    foot = Text(f"{models}, {result.timings.total_ms:.0f} ms", "dim")
    parts: list[RenderableType] = [head, ""]
    if result.concepts:
        parts += [_scores(result.concepts), ""]
    if result.objects:
        parts += [_objects(result), ""]
    if result.omissions:
        parts += [f"left out: {result.left_out}", ""]
    return Group(*parts, foot)


def _scores(concepts: Concepts) -> RenderableType:
    table = console.table("PICTURE SHOWS", "SCORE", "", right=("SCORE",))
    for number, each in enumerate(concepts):
        table.add_row(each.concept, f"{each.score:.2f}", _bar(each.score, 24), style=None if number else "bold")
    return table


def _objects(result: Segmentation) -> RenderableType:
    table = console.table("OBJECT", "SHOWS", "SCORE", "", "NEXT", "AREA", "BOX", right=("SCORE", "AREA"))
    pixels = result.image.width * result.image.height
    for index, each in enumerate(result.objects[:MAX_ROWS]):
        if each.concepts is None:
            continue
        red, green, blue = color_of(index)  # As the overlay has it.
        number = Text.assemble(("\u25a0 ", f"rgb({red},{green},{blue})"), str(index))
        best, *others = each.concepts
        following = next((f"{other.concept} {other.score:.2f}" for other in others if other.same_as is None), "-")
        area = f"{100 * each.area / pixels:.1f} %"
        box = _corners(each)
        table.add_row(number, best.concept, f"{best.score:.2f}", _bar(best.score, 10), following, area, box)
    left_out = len(result.objects) - MAX_ROWS
    return Group(table, f"... and {left_out} more; --json lists them all") if left_out > 0 else table


def _corners(each: SegmentedObject) -> str:
    return ",".join(f"{value:g}" for value in each.box)


def _bar(score: float, width: int) -> ProgressBar:
    return ProgressBar(total=1, completed=score, width=width, complete_style="cyan", finished_style="cyan")
