"""From one prompt to candidate masks: crops around what it speaks of, looked at to find it, then to outline it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from cutout_server.models.builtin.boxes import iou
from cutout_server.models.builtin.crops import Field, Window, box_map, resample, spot
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.network import CHANNELS, MASKS, Network
from cutout_server.models.queries import Candidates
from cutout_server.types import Box, ObjectPrompt

SIZE = 128  # Of crops in which an object is found, in pixels.
_FINE_SIZE = 160  # Of those in which it is outlined.
_SPREAD_SCALES = (2.0, 4.0, 8.0)  # The same in distances of clicks inside, where there are several,
_APART, _WIDEST = 0.02, 1.2  # with so much between them, and no larger than this, in sides of the picture.
_LOOKS_SEARCHED = 2  # At what was searched, each around the mask before: the first mask is often a part.
LOGIT = 12.0  # Of a pixel that is certain.
SCALES = (1.0, 0.45, 0.2)  # Sides of the crops in which a click's object is searched, in sides of the picture.
_AIM = 0.5  # Of the IoU expected, which a click in the very middle is worth beside it: that is where callers aim.
_SAME = 0.7  # IoU from which two candidates are one.
_AT_ONCE = 16  # Crops.
_SMALLEST, _LARGEST = 256, 1024  # Longer side of the logits, in pixels.


@dataclass(frozen=True)
class CropMask:
    """A mask as the network answered it.

    Attributes:
        window: The crop that it was asked about.
        logits: (h, w) over the window.
        quality: IoU to be expected.
    """

    window: Window
    logits: Field = field(repr=False)
    quality: float


def decode(network: Network, embedding: BuiltinEmbedding, prompt: ObjectPrompt, multimask: bool) -> Candidates:
    """Candidates for one prompt; see `Segmenter.decode`."""
    prior = _prior(embedding, prompt)
    count = MASKS if multimask else 1
    searched = prompt.box is None and prior is None and bool((prompt.labels == 1).any())
    if searched:
        found = _searched(network, embedding, prompt, count)
    else:
        box = prompt.box or (extent(prior) if prior else None) or _whole(embedding)
        window = Window.around(_reaching(box, prompt))
        found = predict_masks(network, embedding, [(window, prompt, prior)])[0][:count]
    for _ in range(_LOOKS_SEARCHED if searched else 1):
        windows = [Window.around(_reaching(_box(each), prompt)) if searched else each.window for each in found]
        again = [(window, prompt, answer) for window, answer in zip(windows, found, strict=True)]
        # The first of the masks is the one that follows a mask from before.
        found = [masks[0] for masks in predict_masks(network, embedding, again, _FINE_SIZE)]
    found.sort(key=lambda answer: -answer.quality)
    size = _size(embedding, found)
    logits = np.stack([_placed(embedding, prompt, answer, size) for answer in found])
    return Candidates(logits, np.array([answer.quality for answer in found], np.float32))


def predict_masks(
    network: Network,
    embedding: BuiltinEmbedding,
    questions: Sequence[tuple[Window, ObjectPrompt, CropMask | None]],
    size: int = SIZE,
) -> list[list[CropMask]]:
    """The three masks that the network sees in each window, for a prompt and perhaps a mask from before."""
    answers: list[list[CropMask]] = []
    for start in range(0, len(questions), _AT_ONCE):
        part = questions[start : start + _AT_ONCE]
        crops = np.stack([_seen(embedding, *question, size) for question in part])
        for (window, *_), masks, scores in zip(part, *network(crops), strict=True):
            answers.append([CropMask(window, mask, float(score)) for mask, score in zip(masks, scores, strict=True)])
    return answers


def _seen(
    embedding: BuiltinEmbedding, window: Window, prompt: ObjectPrompt, prior: CropMask | None, size: int
) -> Field:
    """(7, size, size): what the network is shown of one question."""
    seen = np.zeros((CHANNELS, size, size), np.float32)
    seen[:3] = embedding.crop(window, size).transpose(2, 0, 1) / np.float32(127.5) - 1
    if prompt.box is not None:
        seen[3] = box_map(size, window.seen(prompt.box, size))
    places = (prompt.points - (window.left, window.top)) * (size / window.width, size / window.height)
    for (x, y), label in zip(places.tolist(), prompt.labels.tolist(), strict=True):
        spot(seen[4 if label else 5], x, y)
    if prior is not None:
        before = resample(prior.logits, prior.window, window, (size, size), -LOGIT)
        seen[6] = np.tanh(before / 2)
    return seen


def extent(answer: CropMask) -> Box | None:
    """The box of a mask, in pixels of the picture; None when it is empty."""
    mask = answer.logits > 0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    x, y = answer.window.width / mask.shape[1], answer.window.height / mask.shape[0]
    return Box(
        answer.window.left + float(columns[0]) * x,
        answer.window.top + float(rows[0]) * y,
        answer.window.left + float(columns[-1] + 1) * x,
        answer.window.top + float(rows[-1] + 1) * y,
    )


def _searched(network: Network, embedding: BuiltinEmbedding, prompt: ObjectPrompt, count: int) -> list[CropMask]:
    """What clicks alone may mean: the likeliest masks in crops of several sizes."""
    inside = prompt.points[prompt.labels == 1]
    (x, y), spread = inside.mean(0).tolist(), float(np.ptp(inside, axis=0).max())
    longer = max(embedding.image_size)
    if spread > _APART * longer:  # The object is not many times as large as what its clicks span.
        sides = {min(scale * spread, _WIDEST * longer) for scale in _SPREAD_SCALES}
    else:
        sides = {scale * longer for scale in SCALES}
    # What several clicks mean is clear, and their masks are better on larger crops. Which mask one click means is not,
    # and how good masks are the network has learnt to tell on smaller ones.
    size = _FINE_SIZE if len(prompt.points) > 1 else SIZE
    questions = [(Window.at(x, y, side), prompt, None) for side in sorted(sides)]
    offered = predict_masks(network, embedding, questions, size)
    return _apart([answer for masks in offered for answer in masks], prompt, count)


def _apart(offered: list[CropMask], prompt: ObjectPrompt, count: int) -> list[CropMask]:
    """The likeliest, none of them nearly another, so far as there are enough."""
    ordered = sorted(offered, key=lambda answer: -answer.quality - _AIM * _depth(answer, prompt))
    boxes = [_box(answer) for answer in ordered]
    kept: list[int] = []
    for index, box in enumerate(boxes):
        others = [boxes[k] for k in kept]
        if len(kept) < count and not any(iou(box, other) > _SAME for other in others):
            kept.append(index)
    kept += [index for index in range(len(ordered)) if index not in kept][: count - len(kept)]
    return [ordered[index] for index in kept]


def _depth(answer: CropMask, prompt: ObjectPrompt) -> float:
    """How far from its outline the clicks lie in a mask at most, of the farthest that any place does, in [0, 1]."""
    mask = np.pad(answer.logits > 0, 1)
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = depth.shape
    places = prompt.points[prompt.labels == 1] - (answer.window.left, answer.window.top)
    x = np.clip(places[:, 0] * columns / answer.window.width, 0, columns - 1).astype(int)
    y = np.clip(places[:, 1] * rows / answer.window.height, 0, rows - 1).astype(int)
    return float(depth[y, x].max() / max(depth.max(), 1.0))


def _prior(embedding: BuiltinEmbedding, prompt: ObjectPrompt) -> CropMask | None:
    """The mask that came with the prompt; an empty one says nothing."""
    if prompt.logits is None or not (prompt.logits > 0).any():
        return None
    return CropMask(embedding.frame, prompt.logits, 1.0)


def _whole(embedding: BuiltinEmbedding) -> Box:
    height, width = embedding.image_size
    return Box(0, 0, width, height)


def _box(answer: CropMask) -> Box:
    """The box of a mask; of an empty one a pixel in the middle of its window."""
    x, y = answer.window.left + answer.window.width / 2, answer.window.top + answer.window.height / 2
    return extent(answer) or Box(x, y, x + 1, y + 1)


def _reaching(box: Box, prompt: ObjectPrompt) -> Box:
    """The box, or a larger one that holds the clicks inside."""
    inside = prompt.points[prompt.labels == 1]
    if not len(inside):
        return box
    (left, top), (right, bottom) = inside.min(0).tolist(), inside.max(0).tolist()
    return Box(min(box.x_min, left), min(box.y_min, top), max(box.x_max, right), max(box.y_max, bottom))


def _size(embedding: BuiltinEmbedding, found: list[CropMask]) -> tuple[int, int]:
    """(h, w) of logits that keep what the finest window shows, within bounds."""
    height, width = embedding.image_size
    longer = max(height, width)
    wanted = max(answer.logits.shape[1] / answer.window.width for answer in found) * longer
    scale = min(max(wanted, _SMALLEST), _LARGEST) / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def _placed(embedding: BuiltinEmbedding, prompt: ObjectPrompt, answer: CropMask, size: tuple[int, int]) -> Field:
    """(h, w) logits over the whole picture, in which clicks have what they ask for."""
    logits = resample(np.clip(answer.logits, -LOGIT, LOGIT), answer.window, embedding.frame, size, -LOGIT)
    # Clicks outside last: where both fall on one spot, less is safer.
    for index in np.argsort(-prompt.labels, kind="stable"):
        x, y = prompt.points[index].tolist()
        _pin(logits, embedding, x, y, inside=bool(prompt.labels[index]))
    if not (logits > 0).any():  # The object is smaller than any sample, or its clicks contradict each other.
        _pin(logits, embedding, *_middle(prompt, answer), inside=True)
    return logits


def _middle(prompt: ObjectPrompt, answer: CropMask) -> tuple[float, float]:
    """Where the object is most likely if it is anywhere: at the first click inside, else in the middle."""
    inside = prompt.points[prompt.labels == 1]
    if len(inside):
        return float(inside[0, 0]), float(inside[0, 1])
    box = _box(answer)
    return (box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2


def _pin(logits: Field, embedding: BuiltinEmbedding, x: float, y: float, *, inside: bool) -> None:
    """Decides a pixel: sets the samples around its centre, so that interpolation gives their value there."""
    (height, width), (rows, columns) = logits.shape, embedding.image_size
    column = (min(int(x), columns - 1) + 0.5) * width / columns - 0.5
    row = (min(int(y), rows - 1) + 0.5) * height / rows - 0.5
    left, top = max(int(np.floor(column)), 0), max(int(np.floor(row)), 0)
    around = logits[top : top + 2, left : left + 2]
    if inside:
        np.maximum(around, 1.0, out=around)
    else:
        np.minimum(around, -1.0, out=around)
