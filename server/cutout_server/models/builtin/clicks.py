"""From clicks without a box to guesses at the object, one for each size that the tree of regions offers."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.hierarchy import Hierarchy

_MAX_SHARE = 0.95  # What covers more of the picture than this is no object.


@dataclass(frozen=True)
class Guess:
    """A union of regions that may be an object.

    Attributes:
        members: (count,) bool, its superpixels.
        traits: (T,) float32, what tells objects from other unions; see `traits`.
    """

    members: NDArray[np.bool_] = field(repr=False)
    traits: NDArray[np.float32] = field(repr=False)

    @property
    def log_share(self) -> float:
        """Natural logarithm of its share of the picture."""
        return float(self.traits[1])


def guesses(tree: Hierarchy, points: NDArray[np.float32], labels: NDArray[np.int32]) -> list[Guess]:
    """What the clicks inside have grown into at each height of the tree, less what only clicks outside have.

    Args:
        tree: Of the picture.
        points: (N, 2) float32 in [0, 1), parts of the picture's width and height; at least one of label 1.
        labels: (N,) int32; 1 inside, 0 outside.

    Returns:
        From the smallest to the largest; at least one.
    """
    height, width = tree.superpixels.labels.shape
    columns = np.clip((points[:, 0] * width).astype(int), 0, width - 1)
    rows = np.clip((points[:, 1] * height).astype(int), 0, height - 1)
    leaves = tree.superpixels.labels[rows, columns]
    lines = [tree.ancestors(int(leaf)) for leaf in leaves]
    wanted = [line for line, label in zip(lines, labels, strict=True) if label]
    unwanted = [line for line, label in zip(lines, labels, strict=True) if not label]
    kept = {node for line in wanted for node in line}
    spared = [max((node for node in line if node not in kept), default=-1) for line in unwanted]
    found: list[Guess] = []
    centre = points[labels == 1].mean(0)
    for level in sorted({float(tree.height[node]) for line in wanted for node in line}):
        members = np.zeros(tree.superpixels.count, np.bool_)
        for line in wanted:
            members |= tree.members(max(node for node in line if tree.height[node] <= level))
        for node in spared:
            if node >= 0:
                members &= ~tree.members(node)
        share = tree.superpixels.area[members].sum() / (height * width)
        new = not found or members.sum() > found[-1].members.sum()
        if members.any() and new and (share <= _MAX_SHARE or not found):
            found.append(Guess(members, traits(tree, members, level, centre)))
    return found or [_leaf(tree, int(leaves[labels == 1][0]), centre)]


def _leaf(tree: Hierarchy, leaf: int, centre: NDArray[np.float32]) -> Guess:
    members = tree.members(leaf)
    return Guess(members, traits(tree, members, 0.0, centre))


def traits(
    tree: Hierarchy, members: NDArray[np.bool_], level: float, centre: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """What tells objects from other unions of regions.

    Args:
        tree: Of the picture.
        members: (count,) bool, the union's superpixels.
        level: Height at which it came to be.
        centre: (2,) float32, mean of the clicks inside as parts of the picture's width and height; None when nobody
            clicked.

    Returns:
        (11,) float32: 1, logarithm of the share of the picture and its square, share of the picture's frame, contrast
        along the outline, contrast within, distance of the mean colour from what surrounds it, share of the bounding
        box, outline's length against that of a disc, distance of the clicks from the centre, logarithm of the level.
    """
    regions = tree.superpixels
    height, width = regions.labels.shape
    mask = members[regions.labels]
    area = float(mask.sum())
    across = members[regions.pairs[:, 0]] != members[regions.pairs[:, 1]]
    within = members[regions.pairs].all(-1)
    length = float(regions.length[across].sum())
    frame = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    beside = np.zeros_like(members)
    beside[regions.pairs[across].ravel()] = True
    beside &= ~members
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (np.ptp(rows) + 1.0) * (np.ptp(columns) + 1.0)
    middle = np.array([np.dot(mask.sum(0), np.arange(width)), np.dot(mask.sum(1), np.arange(height))]) / area + 0.5
    share = np.log(area / mask.size)
    return np.array(
        [
            1,
            share,
            share**2,
            frame.mean(),
            _mean(regions.contrast[across], regions.length[across]) / 20,
            _mean(regions.contrast[within], regions.length[within]) / 20,
            np.linalg.norm(_mean_colour(tree, members) - _mean_colour(tree, beside)) / 40,
            area / box,
            np.log((length + frame.sum()) / np.sqrt(4 * np.pi * area)),
            0 if centre is None else np.linalg.norm(centre * (width, height) - middle) / np.sqrt(area),
            np.log(level + 1) / 5,
        ],
        np.float32,
    )


def _mean(values: NDArray[np.float32], weights: NDArray[np.float32]) -> float:
    total = float(weights.sum())
    return float((values * weights).sum()) / total if total else 0.0


def _mean_colour(tree: Hierarchy, members: NDArray[np.bool_]) -> NDArray[np.float32]:
    if not members.any():
        return np.zeros(3, np.float32)
    colour, area = tree.superpixels.colour[members], tree.superpixels.area[members]
    return np.asarray((colour * area[:, None]).sum(0) / area.sum(), np.float32)
