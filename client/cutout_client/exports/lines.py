"""Polygons with holes, and objects of several parts, as the single closed lines that some tools take."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cutout_client.encodings import Polygon

Line = NDArray[np.float64]  # (N, 2), x and y in pixels; the last vertex joins the first


def line_of(polygon: Polygon) -> Line:
    """A part with its holes: cuts of no width lead to them."""
    return _joined([polygon.exterior, *polygon.holes])


def line_of_all(polygons: Iterable[Polygon]) -> Line:
    """All parts and holes; whether one fills by the even-odd rule or by the winding number gives the same."""
    return _joined([ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)])


def text_of(line: Line, digits: int = 2) -> list[str]:
    """x0, y0, x1, y1 ... with no more digits than they have."""
    return [f"{number:.{digits}f}".rstrip("0").rstrip(".") for number in line.ravel().tolist()]


def _joined(rings: Sequence[NDArray[np.float32]]) -> Line:
    line, *others = [np.asarray(ring, np.float64) for ring in rings]
    for ring in others:
        here, there = _nearest(line, ring)
        round_trip = np.concatenate([ring[there:], ring[: there + 1]])
        line = np.concatenate([line[: here + 1], round_trip, line[here:]])
    return line


def _nearest(line: Line, ring: Line) -> tuple[int, int]:
    """Indices of the two vertices that are nearest to each other, of each one."""
    best = (np.inf, 0, 0)
    for there, vertex in enumerate(ring):
        distances = ((line - vertex) ** 2).sum(axis=1)
        here = int(distances.argmin())
        best = min(best, (float(distances[here]), here, there))
    return best[1], best[2]
