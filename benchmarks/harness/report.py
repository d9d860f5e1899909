"""Tables on the terminal, JSON and plots in files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import machine, plots

Row = dict[str, Any]


@dataclass
class Table:
    """Rows under named columns, as they are printed and kept.

    Attributes:
        title: What is compared.
        rows: Of the same keys each, in their order; None is printed as a dash.
        figure: What is drawn of it; None for nothing.
        notes: What a reader must know to read it right.
    """

    title: str
    rows: list[Row]
    figure: plots.Bars | plots.Lines | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.title, "", *grid(self.rows), "", *self.notes]
        return "\n".join(lines).rstrip()


@dataclass
class Report:
    """What one benchmark found.

    Attributes:
        name: The benchmark's.
        tables: At least one.
        conditions: What it was asked to do: subject, rounds and so on.
        machine: See `machine.describe`.
    """

    name: str
    tables: list[Table]
    conditions: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine.describe)

    def __str__(self) -> str:
        return "\n\n".join([machine.sentence(self.machine), *map(str, self.tables)])

    def write(self, path: Path) -> None:
        """Writes JSON, and beside it a PNG for each table that has a figure."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, default=float) + "\n")
        drawn = [table for table in self.tables if table.figure]
        for number, table in enumerate(drawn):
            suffix = f"_{number + 1}" if len(drawn) > 1 else ""
            assert table.figure is not None
            table.figure.draw(table.title, table.rows, path.with_name(f"{path.stem}{suffix}.png"))


def grid(rows: Sequence[Row]) -> list[str]:
    """A Markdown table's lines, padded so that it reads well as it is."""
    if not rows:
        return ["(nothing)"]
    columns = list(rows[0])
    cells = [columns, *([_text(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [all(not isinstance(row[column], str) for row in rows) for column in columns]
    align: Callable[[str, int], str] = lambda text, i: text.rjust(widths[i]) if right[i] else text.ljust(widths[i])  # noqa: E731
    lines = ["| " + " | ".join(align(text, i) for i, text in enumerate(line)) + " |" for line in cells]
    rule = "| " + " | ".join("-" * (width - 1) + (":" if right[i] else "-") for i, width in enumerate(widths)) + " |"
    return [lines[0], rule, *lines[1:]]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
