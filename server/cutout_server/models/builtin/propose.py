"""Proposals for everything in a picture: the regions of its tree that look most like objects."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.base import Candidates
from cutout_server.models.builtin import clicks, coefficients, decode
from cutout_server.models.builtin.clicks import Guess
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.hierarchy import Hierarchy
from cutout_server.models.builtin.scene import Field
from cutout_server.models.builtin.segment import from_guess
from cutout_server.types import ObjectPrompt

_LARGEST = 0.7  # Share of the picture.
_SPECK = 1.0  # Side of what is too small, in cells of the grid of points.
_LOOKED_AT = 250  # Regions that are measured, the largest first.
_SAME = 0.6  # IoU from which two proposals are one.
_SIZE = 256  # Longer side of the logits.


def propose(embedding: BuiltinEmbedding, points_per_side: int) -> Candidates:
    """Candidates for everything; see `Proposer.propose`.

    Args:
        embedding: Of the picture.
        points_per_side: What is smaller than a cell of such a grid is not looked for, and at most as many proposals
            come back.
    """
    height, width = embedding.image_size
    scale = min(1.0, _SIZE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    fields: list[Field] = []
    masks: list[NDArray[np.bool_]] = []
    qualities: list[float] = []
    for guess in rank(embedding.tree, points_per_side):
        click = ObjectPrompt(points=_deepest(embedding, guess), labels=np.ones(1, np.int32))
        scene, start = decode.grown_scene(embedding, click, guess)
        outcome = from_guess(scene, start, traits=guess.traits)
        soft = decode.soften(outcome.labels)
        field = scene.window.paste(soft, embedding.image_size, size, -decode.LOGIT)
        mask = field > 0
        if mask.any() and mask.mean() < _LARGEST and all(_iou(mask, other) < _SAME for other in masks):
            fields.append(field)
            masks.append(mask)
            qualities.append(outcome.quality)
    order = np.argsort(-np.array(qualities), kind="stable")
    logits = np.stack([fields[i] for i in order]) if fields else np.zeros((0, *size), np.float32)
    return Candidates(logits, np.array([qualities[i] for i in order], np.float32))


def rank(tree: Hierarchy, points_per_side: int, centre: NDArray[np.float32] | None = None) -> list[Guess]:
    """The regions that look most like objects, the likeliest first, no two of them nearly the same.

    Args:
        tree: Of the picture.
        points_per_side: See `propose`.
        centre: (2,) float32, where objects are looked for first, as parts of the picture's width and height.
    """
    total = float(tree.area[-1])
    smallest = _SPECK * total / points_per_side**2
    fits = (tree.area >= smallest) & (tree.area <= _LARGEST * total) & (tree.parent >= 0)
    nodes = np.flatnonzero(fits)
    nodes = nodes[np.argsort(-tree.area[nodes], kind="stable")][:_LOOKED_AT]
    weights = np.array(coefficients.GUESS, np.float32)
    found = []
    for node in nodes.tolist():
        members = tree.members(node)
        traits = clicks.traits(tree, members, float(tree.height[node]), centre)
        found.append((float(traits @ weights), Guess(members, traits)))
    found.sort(key=lambda pair: -pair[0])
    kept: list[Guess] = []
    area = tree.superpixels.area
    for _, guess in found:
        if all(_overlap(guess.members, other.members, area) < _SAME for other in kept):
            kept.append(guess)
        if len(kept) >= points_per_side:
            break
    return kept


def _deepest(embedding: BuiltinEmbedding, guess: Guess) -> NDArray[np.float32]:
    """(1, 2) where somebody would click who means this region: the point farthest from its outline."""
    mask = guess.members[embedding.tree.superpixels.labels]
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    height, width = embedding.image_size
    return np.array([[(column + 0.5) * width / mask.shape[1], (row + 0.5) * height / mask.shape[0]]], np.float32)


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_], area: NDArray[np.float32]) -> float:
    return float(area[first & second].sum() / area[first | second].sum())


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())
