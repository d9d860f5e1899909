"""Superpixels, their neighbours, and the shortest ways between them."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.types import RgbImage

Lab = NDArray[np.float32]  # (h, w, 3) CIE L*a*b*


def to_lab(pixels: RgbImage) -> Lab:
    """(h, w, 3) uint8 sRGB to CIE L*a*b* with its natural ranges."""
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


@dataclass(frozen=True)
class Superpixels:
    """A partition of a picture into small regions of like colour.

    Attributes:
        labels: (h, w) int32 in [0, count).
        count: How many there are.
        area: (count,) float32, in pixels, at least 1.
        colour: (count, 3) float32, mean L*a*b*.
        pairs: (P, 2) int64, neighbours, each pair once.
        length: (P,) float32, common border in pixels.
        contrast: (P,) float32, mean gradient of L*a*b* along the common border.
    """

    labels: NDArray[np.int32] = field(repr=False)
    count: int
    area: NDArray[np.float32] = field(repr=False)
    colour: NDArray[np.float32] = field(repr=False)
    pairs: NDArray[np.int64] = field(repr=False)
    length: NDArray[np.float32] = field(repr=False)
    contrast: NDArray[np.float32] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        arrays = (self.labels, self.area, self.colour, self.pairs, self.length, self.contrast)
        return sum(array.nbytes for array in arrays)

    def mean(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h, w) values to the (count,) means of the regions."""
        return (np.bincount(self.labels.ravel(), values.ravel(), self.count) / self.area).astype(np.float32)

    def distances(self, sources: Iterable[int]) -> NDArray[np.float32]:
        """How much colour changes on the gentlest way from any of the sources (Dijkstra).

        Returns:
            (count,) float32 in units of L*a*b*; infinite where there is no way.
        """
        cost = np.linalg.norm(self.colour[self.pairs[:, 0]] - self.colour[self.pairs[:, 1]], axis=1)
        cost = np.maximum(cost - 2.0, 0.0)  # Shading is not a step.
        neighbours: list[list[tuple[int, float]]] = [[] for _ in range(self.count)]
        for (a, b), step in zip(self.pairs.tolist(), cost.tolist(), strict=True):
            neighbours[a].append((b, step))
            neighbours[b].append((a, step))
        best = [float("inf")] * self.count
        queue = [(0.0, int(source)) for source in sources]
        for _, source in queue:
            best[source] = 0.0
        while queue:
            so_far, a = heapq.heappop(queue)
            if so_far > best[a]:
                continue
            for b, step in neighbours[a]:
                if so_far + step < best[b]:
                    best[b] = so_far + step
                    heapq.heappush(queue, (best[b], b))
        return np.array(best, np.float32)


def superpixels(pixels: RgbImage, lab: Lab, step: int) -> Superpixels:
    """Watershed from a grid of seeds, each moved to the flattest place in its cell.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        lab: The same in L*a*b*.
        step: Side of a cell, in pixels.
    """
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    gradient = np.sqrt((cv2.Sobel(smooth, -1, 1, 0) ** 2 + cv2.Sobel(smooth, -1, 0, 1) ** 2).sum(-1))
    labels = _flood(pixels, gradient, step)
    count = int(labels.max()) + 1
    flat = labels.ravel()
    area = np.maximum(np.bincount(flat, minlength=count), 1).astype(np.float32)
    means = [np.bincount(flat, lab[..., channel].ravel(), count) / area for channel in range(3)]
    pairs, length, contrast = _borders(labels, count, gradient)
    return Superpixels(labels, count, area, np.stack(means, -1).astype(np.float32), pairs, length, contrast)


def _flood(pixels: RgbImage, gradient: NDArray[np.float32], step: int) -> NDArray[np.int32]:
    height, width = gradient.shape
    rows = np.linspace(0, height, max(1, round(height / step)) + 1).astype(int)
    columns = np.linspace(0, width, max(1, round(width / step)) + 1).astype(int)
    markers = np.zeros((height, width), np.int32)
    seed = 0
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            seed += 1
            flattest = int(gradient[top:bottom, left:right].argmin())
            markers[top + flattest // (right - left), left + flattest % (right - left)] = seed
    if min(height, width) >= 3:
        cv2.watershed(np.asarray(cv2.GaussianBlur(pixels, (0, 0), 1.0)), markers)
    # The watershed draws a line along the picture's edge, in which seeds drown; in small or flat pictures all of them.
    if min(height, width) < 3 or not (markers > 0).any():
        row = np.searchsorted(rows, np.arange(height), "right") - 1
        column = np.searchsorted(columns, np.arange(width), "right") - 1
        return (row[:, None] * (len(columns) - 1) + column[None]).astype(np.int32)
    while (lines := markers <= 0).any():
        grown = cv2.dilate(np.maximum(markers, 0).astype(np.float32), np.ones((3, 3), np.uint8))
        markers = np.where(lines, grown, markers).astype(np.int32)
    return np.unique(markers, return_inverse=True)[1].reshape(height, width).astype(np.int32)


def _borders(
    labels: NDArray[np.int32], count: int, gradient: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    first = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()]).astype(np.int64)
    second = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()]).astype(np.int64)
    across = np.maximum(gradient[:, :-1], gradient[:, 1:]).ravel(), np.maximum(gradient[:-1], gradient[1:]).ravel()
    differ = first != second
    first, second, steps = first[differ], second[differ], np.concatenate(across)[differ]
    keys, which = np.unique(np.minimum(first, second) * count + np.maximum(first, second), return_inverse=True)
    length = np.bincount(which, minlength=len(keys)).astype(np.float32)
    contrast = np.bincount(which, steps, len(keys)).astype(np.float32) / np.maximum(length, 1)
    return np.stack([keys // count, keys % count], -1), length, contrast.astype(np.float32)
