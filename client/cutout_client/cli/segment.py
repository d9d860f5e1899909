"""`cutout segment`: cuts objects out."""

import argparse
from collections import Counter
from typing import Any

from cutout_client.cli import batch, connection, console, folders, prompts
from cutout_client.cli.outcomes import Outcome
from cutout_client.concepts import Rewriting
from cutout_client.exports import outlined


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("segment", help="cut objects out of pictures")
    folders.add_pictures(parser)
    prompts.add_to(parser)
    batch.add_output(parser)
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Does every picture; 1 when one of them failed."""
    question = prompts.question(args, outlines=outlined(batch.formats_of(args)))
    return batch.run(args, question, "Segmenting", Finds())


class Finds:
    """A row for each picture, what was left out of the only one, and what phrases were rewritten to."""

    def __init__(self) -> None:
        self._table = console.table("PICTURE", "OBJECTS", "LABELS", "SCORES", "MS", right=("OBJECTS", "MS"))
        self._rewritings: Counter[Rewriting] = Counter()
        self._left_out = ""
        self._same: dict[str, None] = {}

    def add(self, outcome: Outcome) -> None:
        """Adds a row."""
        result = outcome.result
        if result is None:
            self._table.add_row(outcome.job.title, "failed", style="red")
            return
        labels = Counter(label for label in result.labels if label)
        found = ", ".join(f"{label} x{count}" if count > 1 else label for label, count in labels.items())
        scores = sorted(each.score for each in result)
        score = " - ".join(f"{end:.2f}" for end in dict.fromkeys((scores[0], scores[-1]))) if scores else "-"
        ms = f"{result.timings.total_ms:.0f}"
        self._left_out = result.left_out if result.objects and not self._table.row_count else ""
        self._same |= {str(omission): None for omission in result.omissions if omission.same_as is not None}
        why = "" if result.objects else result.left_out
        self._table.add_row(outcome.job.title, str(len(result)), found or why or "-", score, ms)
        if result.rewriting:
            self._rewritings[result.rewriting] += 1

    def print(self) -> None:
        """The table; then each rewriting once, however many pictures it served."""
        out = console.stdout()
        out.print(self._table)
        if left_out := self._left_out or "; ".join(self._same):
            out.print(f"\nleft out: {left_out}", soft_wrap=True)
        for rewriting, count in self._rewritings.items():
            phrases = ", ".join(each.phrase for each in rewriting.phrases)
            where = f" ({count} pictures)" if len(self._rewritings) > 1 else ""
            out.print(f"\nlooked for{where}: {phrases}", soft_wrap=True)
            if rewriting.failure:
                console.write_warning(f"phrases not rewritten: {rewriting.failure}")
