"""Proposals for everything: a grid of clicks, then a second look at what the network is sure of.

What is large needs few clicks and large crops: each coarser grid has half as many clicks a side on crops twice as wide.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.crops import Window, resample
from cutout_server.models.builtin.decode import LOGIT, CropMask, extent, predict_masks
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.network import Network
from cutout_server.models.queries import Candidates
from cutout_server.types import ObjectPrompt

_SIDE = 5.0  # Of a crop, in cells of its grid.
_GRIDS = 3
_SHARE = 0.3  # Clicks a side, of those asked for: each is answered by three masks of its crop, and time is short.
_LIKELY = 0.3  # Expected IoU from which a mask is looked at again.
_MOST = 80  # Masks that are.
_LARGEST = 0.9  # Share of the picture.
_SAME = 0.7  # IoU from which two masks are one.
_COARSE = 64  # Side of the masks that are compared.
_SIZE = 256  # Longer side of the logits.


@dataclass(frozen=True)
class _Find:
    answer: CropMask
    mask: NDArray[np.float32] = field(repr=False)  # (_COARSE²,), 0 or 1, over the picture.


def propose(network: Network, embedding: BuiltinEmbedding, points_per_side: int) -> Candidates:
    """Candidates for everything, the likeliest first; see `Proposer.propose`.

    Args:
        network: Trained.
        embedding: Of the picture.
        points_per_side: Of the finest grid in a square picture, which has fewer.
    """
    height, width = embedding.image_size
    scale = min(1.0, _SIZE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    again = [
        (Window.around(box), ObjectPrompt(), find.answer)
        for find in _apart(_clicked(network, embedding, points_per_side))[:_MOST]
        if (box := extent(find.answer)) is not None
    ]
    # The second look is shown a mask and takes it for one: whether there is an object the first one knows better.
    found = [
        replace(masks[0], quality=min(masks[0].quality, first.quality))
        for (*_, first), masks in zip(again, predict_masks(network, embedding, again), strict=True)
    ]
    kept = [find.answer for find in _apart([_coarse(embedding, answer) for answer in found])]
    fields = [resample(np.clip(k.logits, -LOGIT, LOGIT), k.window, embedding.frame, size, -LOGIT) for k in kept]
    logits = np.stack(fields) if fields else np.zeros((0, *size), np.float32)
    return Candidates(logits, np.array([answer.quality for answer in kept], np.float32))


def _clicked(network: Network, embedding: BuiltinEmbedding, points_per_side: int) -> list[_Find]:
    height, width = embedding.image_size
    questions: list[tuple[Window, ObjectPrompt, CropMask | None]] = []
    for grid in range(_GRIDS):
        # Cells are square; but of a very slender picture there would be too many.
        mean = max((height * width) ** 0.5, max(height, width) / 2)
        cell = mean / max(_SHARE * points_per_side / 2**grid, 1)
        side = min(_SIDE * cell, 1.2 * max(height, width))
        rows, columns = (max(round(length / cell), 1) for length in (height, width))
        for y in ((np.arange(rows) + 0.5) * height / rows).tolist():
            for x in ((np.arange(columns) + 0.5) * width / columns).tolist():
                click = ObjectPrompt(points=np.array([[x, y]], np.float32), labels=np.ones(1, np.int32))
                questions.append((Window.at(x, y, side), click, None))
    return [
        _coarse(embedding, answer)
        for masks in predict_masks(network, embedding, questions)
        for answer in masks
        if answer.quality > _LIKELY and not _cut(answer, embedding)
    ]


def _cut(answer: CropMask, embedding: BuiltinEmbedding) -> bool:
    """Whether a mask reaches an edge of its crop that is none of the picture: a larger crop shows the rest."""
    mask, window, (height, width) = answer.logits > 0, answer.window, embedding.image_size
    right, bottom = window.left + window.width < width, window.top + window.height < height
    across = (mask[:, 0].any() and window.left > 0) or (mask[:, -1].any() and right)
    return bool(across or (mask[0].any() and window.top > 0) or (mask[-1].any() and bottom))


def _coarse(embedding: BuiltinEmbedding, answer: CropMask) -> _Find:
    mask = resample(answer.logits, answer.window, embedding.frame, (_COARSE, _COARSE), -LOGIT) > 0
    return _Find(answer, mask.ravel().astype(np.float32))


def _apart(found: list[_Find]) -> list[_Find]:
    """The likeliest, no two of them nearly the same; neither nothing nor nearly the whole picture."""
    found = [find for find in found if 0 < find.mask.mean() < _LARGEST]
    found.sort(key=lambda find: -find.answer.quality)
    if not found:
        return []
    masks = np.stack([find.mask for find in found])
    shared, areas = masks @ masks.T, masks.sum(1)
    same = shared > _SAME * (areas[:, None] + areas - shared)
    alive = np.ones(len(found), np.bool_)
    for index in range(len(found)):
        if alive[index]:
            alive[index + 1 :] &= ~same[index, index + 1 :]
    return [find for find, lives in zip(found, alive, strict=True) if lives]
