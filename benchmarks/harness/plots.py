"""Figures of tables, to be read without the text around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#33658a", "#f26419", "#2f9e6e", "#8a5a9e", "#9a8b3a", "#c23b4b", "#5b6770")


@dataclass(frozen=True)
class Bars:
    """One horizontal bar a row.

    Attributes:
        label: Column with what the bar stands for.
        value: Column with its length.
        axis: What the length means, with its unit.
        spread: Columns with the quartiles, drawn as whiskers.
        goal: A line to be reached.
    """

    label: str
    value: str
    axis: str
    spread: tuple[str, str] | None = None
    goal: float | None = None

    def draw(self, title: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
        """Writes a PNG; rows without a value are left out."""
        rows = [row for row in rows if row[self.value] is not None]
        figure, axes = _axes(title, height=1.3 + 0.34 * max(len(rows), 1))
        labels, values = [str(row[self.label]) for row in rows], [float(row[self.value]) for row in rows]
        whiskers = None
        if self.spread:
            low, high = self.spread
            whiskers = [
                [max(0.0, value - row[low]) for value, row in zip(values, rows, strict=True)],
                [max(0.0, row[high] - value) for value, row in zip(values, rows, strict=True)],
            ]
        places = range(len(rows))
        bars = axes.barh(places, values, xerr=whiskers, color=COLOURS[0], error_kw={"ecolor": "#222", "capsize": 3})
        axes.bar_label(bars, labels=[f"{value:.3g}" for value in values], padding=4, fontsize=9)
        axes.set_yticks(list(places), labels)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(self.axis)
        if self.goal is not None:
            axes.axvline(self.goal, color=COLOURS[1], linestyle="--", linewidth=1)
        figure.savefig(path)


@dataclass(frozen=True)
class Lines:
    """One line for each kind of row.

    Attributes:
        x: Column of the horizontal place.
        y: Column of the height.
        kind: Column that tells the lines apart; empty for one line.
        axes: What x and y mean, with their units.
        logarithmic: Whether both axes are; else y begins at 0.
    """

    x: str
    y: str
    axes: tuple[str, str]
    kind: str = ""
    logarithmic: bool = False

    def draw(self, title: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
        """Writes a PNG; rows without a value are left out."""
        figure, axes = _axes(title, height=4)
        rows = [row for row in rows if row[self.y] is not None and row[self.x] is not None]
        kinds = list(dict.fromkeys(str(row[self.kind]) if self.kind else "" for row in rows))
        for number, kind in enumerate(kinds):
            own = [row for row in rows if not self.kind or str(row[self.kind]) == kind]
            marker = "o" if len(own) < 40 else None
            axes.plot(
                [row[self.x] for row in own],
                [row[self.y] for row in own],
                marker=marker,
                label=kind,
                color=COLOURS[number % len(COLOURS)],
            )
        if self.logarithmic:
            axes.set_xscale("log")
            ticks = sorted({row[self.x] for row in rows})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(self.axes[0])
        axes.set_ylabel(self.axes[1])
        axes.grid(alpha=0.3)
        if len(kinds) > 1:
            axes.legend()
        figure.savefig(path)


def _axes(title: str, height: float) -> tuple[Any, Any]:
    # pyplot keeps every figure alive and picks a window toolkit; neither is wanted.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - it takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
