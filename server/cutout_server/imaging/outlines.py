"""The outlines of a mask, exactly along the edges between pixels, and valid by the OGC's rules."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from cutout_server.types import MaskPatch, Polygon, PolygonMask
from numpy.typing import NDArray

Ring = NDArray[np.int32]  # (N, 2), x and y of pixels' corners


def polygons(patch: MaskPatch) -> PolygonMask:
    """Traces a mask so that filling the outlines by pixel centres gives it back.

    No ring meets itself, and no hole cuts a polygon in two: what touches at corners alone is apart, of the mask as of
    what surrounds it.

    Returns:
        One polygon for each 4-connected part, with the holes in it; vertices are corners of pixels.
    """
    height, width, top, left = patch.place
    part = np.pad(patch.inside, 1)
    if not part.any():
        return PolygonMask(height, width, ())
    rings = [loop for ring in _traced(part) for loop in _simple(ring)]
    is_hole, owners = _sides(rings, part)
    placed = [(ring + np.array([left - 1, top - 1])).astype(np.float32) for ring in rings]
    holes: dict[int, list[NDArray[np.float32]]] = {}
    exteriors: dict[int, NDArray[np.float32]] = {}
    for ring, hole, owner in zip(placed, is_hole, owners, strict=True):
        if hole:
            holes.setdefault(owner, []).append(ring)
        else:
            exteriors[owner] = ring
    return PolygonMask(height, width, tuple(Polygon(ring, tuple(holes.get(i, ()))) for i, ring in exteriors.items()))


def _traced(part: NDArray[np.bool_]) -> list[Ring]:
    """Every border of a mask with a margin, the mask on the same side of each; what touches at corners is apart.

    OpenCV traces 8-connected parts through the centres of their border pixels. So it is given what surrounds the mask,
    at twice its size: there every border pixel lies in one corner of an original one, and stands for just that corner.
    """
    doubled = (~part).view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [ring for ring in _rings(contours) if ring.min() > 0]  # the margin's own border is no outline


def _rings(contours: Sequence[NDArray[Any]]) -> list[Ring]:
    """Contours on the doubled mask as rings of pixel corners, all at once: there may be very many."""
    vertices = (np.concatenate(contours)[:, 0] + 1) // 2
    ring = np.repeat(np.arange(len(contours)), [len(contour) for contour in contours])
    # A diagonal step around a corner stands for the corner twice, and a corner without a turn is none.
    for is_vertex in (_moved, _turned):
        keep = is_vertex(vertices, *_neighbours(ring))
        vertices, ring = vertices[keep], ring[keep]
    return np.split(vertices, np.flatnonzero(np.diff(ring)) + 1)


def _neighbours(ring: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the vertices before and behind each one on its ring."""
    index = np.arange(len(ring))
    begins = np.flatnonzero(np.diff(ring, prepend=-1))
    ends = np.append(begins[1:], len(ring)) - 1
    before, behind = index - 1, index + 1
    before[begins], behind[ends] = ends, begins
    return before, behind


def _moved(vertices: Ring, before: NDArray[np.int64], _: NDArray[np.int64]) -> NDArray[np.bool_]:
    moved: NDArray[np.bool_] = (vertices != vertices[before]).any(axis=1)
    return moved


def _turned(vertices: Ring, before: NDArray[np.int64], behind: NDArray[np.int64]) -> NDArray[np.bool_]:
    # All edges run along an axis: it is a turn unless both neighbours are on one.
    straight = (vertices == vertices[before]) & (vertices == vertices[behind])
    turned: NDArray[np.bool_] = ~straight.any(axis=1)
    return turned


def _simple(ring: Ring) -> list[Ring]:
    """Cuts a ring where it meets itself: a part whose ends touch at a corner encloses a hole."""
    corners = ring[:, 1].astype(np.int64) << 32 | ring[:, 0]
    if len(np.unique(corners)) == len(corners):
        return [ring]
    loops: list[list[int]] = []
    path: list[int] = []
    place: dict[int, int] = {}
    for index, corner in enumerate(corners.tolist()):
        start = place.setdefault(corner, len(path))
        if start < len(path):
            loops.append(path[start:])
            for left in path[start + 1 :]:
                del place[int(corners[left])]
            del path[start + 1 :]
        else:
            path.append(index)
    return [ring[loop] for loop in (*loops, path)]


def _sides(rings: Sequence[Ring], part: NDArray[np.bool_]) -> tuple[list[bool], list[int]]:
    """Of each ring whether it bounds a hole, and the 4-connected part of the mask that it bounds."""
    _, parts = cv2.connectedComponents(part.view(np.uint8), connectivity=4)
    vertices = np.concatenate(rings)
    begins = np.cumsum([0, *(len(ring) for ring in rings[:-1])])
    x, y = vertices.T.astype(np.int64)
    _, behind = _neighbours(np.repeat(np.arange(len(rings)), [len(ring) for ring in rings]))
    enclosed = np.add.reduceat(x * y[behind] - x[behind] * y, begins)
    first = vertices[begins]
    along = np.sign(vertices[begins + 1] - first)
    inwards = along[:, ::-1] * np.array([-1, 1])  # where the mask is, seen along any of OpenCV's contours around it
    column, row = np.where(along + inwards > 0, first, first - 1).T
    return (enclosed < 0).tolist(), parts[row, column].tolist()
