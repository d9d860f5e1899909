"""What commands print with: results on stdout, progress and errors on stderr."""

import io
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def stdout() -> Console:
    """For results. What the terminal cannot show, such as names of files that are no text, is escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, markup=False)


def stderr() -> Console:
    """For progress and errors."""
    return Console(stderr=True, highlight=False, markup=False)


def write_json(content: Any) -> None:
    """One JSON document on one line."""
    stdout().print(json.dumps(content), soft_wrap=True)


def write_error(text: str, console: Console | None = None) -> None:
    """One line on stderr, above the progress bar that the console may show."""
    (console or stderr()).print(Text(f"cutout: error: {text}", style="red"), soft_wrap=True)


def write_warning(text: str, console: Console | None = None) -> None:
    """One line on stderr, above the progress bar that the console may show."""
    (console or stderr()).print(Text(f"cutout: warning: {text}", style="yellow"), soft_wrap=True)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; the columns named in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def in_bytes(size: int) -> str:
    """Such as `1.5 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def in_time(seconds: float) -> str:
    """Such as `2 h 05 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
