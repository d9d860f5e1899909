"""Boxes from the tree of regions: what stands out, and what belongs to a face."""

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin import clicks, coefficients
from cutout_server.models.builtin.cascades import Find
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.propose import rank
from cutout_server.types import Box

_MOST = 3
_GRID = 12  # As fine as `rank` need look: what stands out is not small.
_FACE_MARGIN = 0.1
_LARGEST_BODY = 12.0  # In faces.


def salient(embedding: BuiltinEmbedding) -> list[Find]:
    """Boxes of what stands out most, with the expected IoU as score; none contains another."""
    weights = np.array(coefficients.GUESS, np.float32)
    found: list[Find] = []
    taken = np.zeros(embedding.tree.superpixels.count, np.bool_)
    for guess in rank(embedding.tree, _GRID, np.array([0.5, 0.5], np.float32)):
        if not (guess.members & taken).any():
            taken |= guess.members
            found.append((_box(embedding, guess.members), float(1 / (1 + np.exp(-(guess.traits @ weights))))))
    return found[:_MOST]


def around_face(embedding: BuiltinEmbedding, face: Box) -> Box:
    """A box around the animal that a face belongs to: the likeliest union of regions that covers the face."""
    height, width = embedding.image_size
    xs, ys = np.linspace(face.x_min, face.x_max, 7)[1:-1], np.linspace(face.y_min, face.y_max, 7)[1:-1]
    grid = np.stack(np.meshgrid(xs[1:4] / width, ys[1:4] / height), -1).reshape(-1, 2).astype(np.float32)
    weights = np.array(coefficients.GUESS, np.float32)
    total = float((face.x_max - face.x_min) * (face.y_max - face.y_min)) / (height * width)
    offered = [
        guess
        for guess in clicks.guesses(embedding.tree, grid, np.ones(len(grid), np.int32))
        if total < np.exp(guess.log_share) < _LARGEST_BODY * total
    ]
    side = _FACE_MARGIN * (face.x_max - face.x_min)
    head = Box(
        max(face.x_min - side, 0),
        max(face.y_min - side, 0),
        min(face.x_max + side, width),
        min(face.y_max + side, height),
    )
    if not offered:
        return head
    body = _box(embedding, max(offered, key=lambda guess: float(guess.traits @ weights)).members)
    return Box(
        min(head.x_min, body.x_min),
        min(head.y_min, body.y_min),
        max(head.x_max, body.x_max),
        max(head.y_max, body.y_max),
    )


def _box(embedding: BuiltinEmbedding, members: NDArray[np.bool_]) -> Box:
    mask = members[embedding.tree.superpixels.labels]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y, x = embedding.image_size[0] / mask.shape[0], embedding.image_size[1] / mask.shape[1]
    return Box(columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y)
