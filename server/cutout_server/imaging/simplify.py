"""Outlines with fewer vertices, valid as they were."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import shapely
from cutout_server.types import Polygon, PolygonMask
from numpy.typing import NDArray
from shapely import MultiPolygon

FIRST_TOLERANCE = 0.5  # In pixels; less takes no step off an outline.
HALVINGS = 6  # Of the range in which the least tolerance is looked for that leaves few enough vertices.
MOST_RINGS = 1000  # Above, the time that it takes to keep all apart grows by their square.


def simplified(outlines: PolygonMask, tolerance: float, max_vertices: int) -> PolygonMask:
    """Leaves vertices out, as Douglas and Peucker (1973) do, but so that no ring meets itself or another one.

    What encloses fewer pixels than the tolerance's square goes, parts as well as holes, and so does what is not among
    the `MOST_RINGS` largest; the largest part always stays.

    Args:
        outlines: Valid ones.
        tolerance: How far a vertex that is left out may be from what remains, in pixels; 0 for not at all.
        max_vertices: Of all rings together, at least 4; 0 for any number. The tolerance is raised until they fit.

    Returns:
        The outlines with the tolerance that it took, and with the number of rings that were left out.
    """
    if not outlines.polygons:
        return outlines
    exact = _Outlines(outlines)
    shape = exact.simplified(tolerance) if tolerance else exact.kept(0)
    if max_vertices and _vertices(shape) > max_vertices:
        tolerance, shape = _fitted(exact, max(tolerance, FIRST_TOLERANCE), max_vertices)
    elif not tolerance:
        return outlines
    left_out = len(exact.rings) - _rings(shape)
    return replace(outlines, polygons=_polygons(shape), tolerance=tolerance, left_out=left_out)


@dataclass(frozen=True)
class _Outlines:
    outlines: PolygonMask

    @cached_property
    def rings(self) -> NDArray[np.object_]:
        """(R,) closed rings; of each polygon first the exterior, then its holes."""
        rings = [ring for polygon in self.outlines.polygons for ring in (polygon.exterior, *polygon.holes)]
        owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
        closed: NDArray[np.object_] = shapely.linearrings(np.concatenate(rings).astype(np.float64), indices=owner)
        return closed

    @cached_property
    def enclosed(self) -> NDArray[np.float64]:
        """(R,) pixels that each ring encloses: more than any ring inside of it."""
        areas: NDArray[np.float64] = shapely.area(shapely.polygons(self.rings))
        return areas

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """(R,) 0 for the ring that encloses most."""
        return np.argsort(np.argsort(-self.enclosed, kind="stable"))

    def kept(self, area: float) -> MultiPolygon:
        """What encloses at least so many pixels."""
        keep = (self.enclosed >= area) & (self.rank < MOST_RINGS) | (self.rank == 0)
        owner = np.repeat(
            np.arange(len(self.outlines.polygons)), [1 + len(polygon.holes) for polygon in self.outlines.polygons]
        )
        _, owner = np.unique(owner[keep], return_inverse=True)
        return MultiPolygon(list(shapely.polygons(self.rings[keep], indices=owner)))

    def simplified(self, tolerance: float) -> MultiPolygon:
        """What is large enough, with fewer vertices."""
        return MultiPolygon(list(shapely.get_parts(shapely.simplify(self.kept(tolerance**2), tolerance))))

    def coarsest(self) -> MultiPolygon:
        """The largest part in three or four vertices: round what is convex nothing is in the way of that."""
        return MultiPolygon([shapely.simplify(shapely.convex_hull(self.kept(math.inf)), math.inf)])


def _fitted(exact: _Outlines, tolerance: float, max_vertices: int) -> tuple[float, MultiPolygon]:
    """The least tolerance, nearly, from this one on that leaves few enough vertices, and what it leaves.

    It is looked for from above, where few rings are left: that takes no more time for outlines of very many vertices.
    """
    low, high = tolerance, max(tolerance, math.hypot(exact.outlines.height, exact.outlines.width))
    shape = exact.coarsest()
    while high > low:
        middle = max(low, high / 2)
        attempt = exact.simplified(middle)
        if _vertices(attempt) > max_vertices:
            low = middle
            break
        high, shape = middle, attempt
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        attempt = exact.simplified(middle)
        if _vertices(attempt) > max_vertices:
            low = middle
        else:
            high, shape = middle, attempt
    return high, shape


def _rings(shape: MultiPolygon) -> int:
    return sum(1 + len(part.interiors) for part in shape.geoms)


def _vertices(shape: MultiPolygon) -> int:
    return int(shapely.get_num_coordinates(shape)) - _rings(shape)  # each ring repeats its first one


def _polygons(shape: MultiPolygon) -> tuple[Polygon, ...]:
    return tuple(Polygon(_ring(part.exterior), tuple(map(_ring, part.interiors))) for part in shape.geoms)


def _ring(ring: shapely.LinearRing) -> NDArray[np.float32]:
    vertices: NDArray[np.float32] = shapely.get_coordinates(ring)[:-1].astype(np.float32)
    return vertices
