"""A picture as a tree of regions: like neighbours are joined first, the whole picture last."""

import heapq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.superpixels import Superpixels

_SIZE_POWER = 0.5  # How much longer large regions wait: 0 joins by likeness alone, 1 is Ward's criterion.
_EDGE_WEIGHT = 1.0  # Of the contrast along the border, against the distance of the mean colours.


@dataclass(frozen=True)
class Hierarchy:
    """A binary tree over superpixels; nodes 0 to count - 1 are the superpixels, the last is the whole picture.

    Attributes:
        superpixels: The leaves.
        parent: (2 count - 1,) int32; -1 at the root.
        height: (2 count - 1,) float32, unlikeness of what was joined, never less than a child's; 0 for leaves.
        area: (2 count - 1,) float32 in pixels.
        order: (count,) int32, each superpixel's rank; a node's superpixels have neighbouring ranks.
        span: (2 count - 1, 2) int32, a node's ranks [first, last).
    """

    superpixels: Superpixels = field(repr=False)
    parent: NDArray[np.int32] = field(repr=False)
    height: NDArray[np.float32] = field(repr=False)
    area: NDArray[np.float32] = field(repr=False)
    order: NDArray[np.int32] = field(repr=False)
    span: NDArray[np.int32] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        arrays = (self.parent, self.height, self.area, self.order, self.span)
        return self.superpixels.nbytes + sum(array.nbytes for array in arrays)

    def members(self, node: int) -> NDArray[np.bool_]:
        """(count,) which superpixels a node is made of."""
        first, last = self.span[node]
        return np.asarray((self.order >= first) & (self.order < last))

    def ancestors(self, node: int) -> list[int]:
        """The node itself and all that it was joined into, up to the root."""
        line = [node]
        while self.parent[line[-1]] >= 0:
            line.append(int(self.parent[line[-1]]))
        return line


def build(regions: Superpixels) -> Hierarchy:
    """Joins the likest neighbours, again and again."""
    count = regions.count
    total = 2 * count - 1
    colour = [tuple(values) for values in regions.colour.tolist()]
    area = regions.area.tolist()
    neighbours: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    for (a, b), length, contrast in zip(
        regions.pairs.tolist(), regions.length.tolist(), regions.contrast.tolist(), strict=True
    ):
        neighbours[a][b] = neighbours[b][a] = (length, contrast)
    parent, height, children = [-1] * total, [0.0] * total, [(-1, -1)] * total

    def unlikeness(a: int, b: int) -> float:
        (l1, a1, b1), (l2, a2, b2) = colour[a], colour[b]
        apart = ((l1 - l2) ** 2 + (a1 - a2) ** 2 + (b1 - b2) ** 2) ** 0.5
        size = area[a] * area[b] / (area[a] + area[b])
        return float((apart + _EDGE_WEIGHT * neighbours[a][b][1]) * size**_SIZE_POWER)

    queue = [(unlikeness(a, b), a, b) for a, b in regions.pairs.tolist()]
    heapq.heapify(queue)
    node = count
    while queue:
        cost, a, b = heapq.heappop(queue)
        if parent[a] >= 0 or parent[b] >= 0:
            continue
        parent[a] = parent[b] = node
        children[node], height[node] = (a, b), max(cost, height[a], height[b])
        both = area[a] + area[b]
        colour.append(tuple((x * area[a] + y * area[b]) / both for x, y in zip(colour[a], colour[b], strict=True)))
        area.append(both)
        around: dict[int, tuple[float, float]] = {}
        for old in (a, b):
            for other, (length, contrast) in neighbours[old].items():
                if other in (a, b):
                    continue
                before = around.get(other, (0.0, 0.0))
                longer = before[0] + length
                around[other] = longer, (before[0] * before[1] + length * contrast) / longer
                del neighbours[other][old]
            neighbours[old] = {}
        neighbours.append(around)
        for other, border in around.items():
            neighbours[other][node] = border
            heapq.heappush(queue, (unlikeness(node, other), other, node))
        node += 1
    order, span = _ranks(children, count)
    return Hierarchy(
        regions,
        np.array(parent, np.int32),
        np.array(height, np.float32),
        np.array(area, np.float32),
        order,
        span,
    )


def _ranks(children: list[tuple[int, int]], count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    order, span = np.zeros(count, np.int32), np.zeros((len(children), 2), np.int32)
    stack, rank = [len(children) - 1], 0
    lineage = []
    while stack:
        node = stack.pop()
        lineage.append(node)
        if node < count:
            order[node] = rank
            span[node] = rank, rank + 1
            rank += 1
        else:
            stack += reversed(children[node])
    for node in reversed(lineage):  # Children come after their parents.
        if node >= count:
            first, second = children[node]
            span[node] = span[first, 0], span[second, 1]
    return order, span
