"""Memory as it goes, frame by frame, in few points."""

import itertools
from collections.abc import Iterator

from harness.report import Row


def points(way: str, length: int, frames: Iterator[tuple[int, int]]) -> list[Row]:
    """Some fifty of (frames, bytes) pairs, printed as they come: what is ended early has told something, too."""
    rows: list[Row] = []
    for done, resident in frames:
        if not rows or done - rows[-1]["frames"] >= length / 50 or done == length:
            rows.append({"way": way, "frames": done, "resident MiB": resident / 2**20})
            print(f"{way}, frame {done}: {resident / 2**20:.0f} MiB", flush=True)
    return rows


def summary(rows: list[Row]) -> list[Row]:
    """What each way had after a twentieth of the frames, and at the end; what a frame adds between."""
    table: list[Row] = []
    for way, group in itertools.groupby(rows, key=lambda row: row["way"]):
        points = list(group)
        early = next(each for each in points if each["frames"] >= points[-1]["frames"] / 20)
        grown = points[-1]["resident MiB"] - early["resident MiB"]
        table.append(
            {
                "way": way,
                "MiB at first": points[0]["resident MiB"],
                f"MiB after {early['frames']} frames": early["resident MiB"],
                f"MiB after {points[-1]['frames']} frames": points[-1]["resident MiB"],
                "most MiB": max(each["resident MiB"] for each in points),
                "KiB a frame between": 1024 * grown / max(1, points[-1]["frames"] - early["frames"]),
            }
        )
    return table
