"""The outlines of a mask, exactly along the edges between pixels."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from cutout_server.types import MaskPatch, Polygon, PolygonMask
from numpy.typing import NDArray


def polygons(patch: MaskPatch) -> PolygonMask:
    """Traces a mask so that filling the outlines by pixel centres gives it back.

    OpenCV traces through the centres of border pixels. On the mask at twice its size every border pixel lies in one
    corner of an original one, and stands for exactly that corner.

    Returns:
        One polygon for each 8-connected part, with the holes in it; vertices are corners of pixels.
    """
    height, width, top, left = patch.place
    part = patch.inside
    if not part.any():
        return PolygonMask(height, width, ())
    doubled = part.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = _rings(contours, np.array([left, top], np.int32))
    parents = hierarchy[0, :, 3].tolist()
    holes: dict[int, list[NDArray[np.float32]]] = {i: [] for i, parent in enumerate(parents) if parent < 0}
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            holes[parent].append(ring)
    return PolygonMask(height, width, tuple(Polygon(rings[i], tuple(holes[i])) for i in holes))


def _rings(contours: Sequence[NDArray[Any]], origin: NDArray[np.int32]) -> list[NDArray[np.float32]]:
    """Contours on the doubled mask as rings of pixel corners, all at once: there may be very many."""
    vertices = (np.concatenate(contours)[:, 0] + 1) // 2 + origin
    ring = np.repeat(np.arange(len(contours)), [len(contour) for contour in contours])
    # A diagonal step around a corner stands for the corner twice, and a corner without a turn is none.
    for is_vertex in (_moved, _turned):
        keep = is_vertex(vertices, *_neighbours(ring))
        vertices, ring = vertices[keep], ring[keep]
    return np.split(vertices.astype(np.float32), np.flatnonzero(np.diff(ring)) + 1)


def _neighbours(ring: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the vertices before and behind each one on its ring."""
    index = np.arange(len(ring))
    begins = np.flatnonzero(np.diff(ring, prepend=-1))
    ends = np.append(begins[1:], len(ring)) - 1
    before, behind = index - 1, index + 1
    before[begins], behind[ends] = ends, begins
    return before, behind


def _moved(vertices: NDArray[np.int32], before: NDArray[np.int64], _: NDArray[np.int64]) -> NDArray[np.bool_]:
    moved: NDArray[np.bool_] = (vertices != vertices[before]).any(axis=1)
    return moved


def _turned(vertices: NDArray[np.int32], before: NDArray[np.int64], behind: NDArray[np.int64]) -> NDArray[np.bool_]:
    # All edges run along an axis: it is a turn unless both neighbours are on one.
    straight = (vertices == vertices[before]) & (vertices == vertices[behind])
    turned: NDArray[np.bool_] = ~straight.any(axis=1)
    return turned
