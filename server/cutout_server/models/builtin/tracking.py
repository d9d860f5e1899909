"""Objects from frame to frame without a network that remembers: motion carries the mask, the segmenter refines it.

Dense optical flow (DIS, Kroeger et al. 2016) says where each pixel of a frame was in the one before; what the mask had
there it has here. The segmenter looks at what was carried and draws its outline anew. An object is lost when too little
of it is left, or when what is there does not look like it; its look is then searched for in each frame.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from cutout_common.masks import rle_decode
from numpy.typing import NDArray

from cutout_server.models.builtin.appearance import MOST_BYTES, Appearance, search
from cutout_server.models.builtin.crops import Field
from cutout_server.models.builtin.decode import LOGIT, decode
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.network import Network
from cutout_server.models.embedding import own_embedding, own_memory
from cutout_server.models.queries import Tracked, TrackQuery
from cutout_server.types import Box, ObjectPrompt, RgbImage, Rle

_SIDE = 384  # Longer side of the frames between which motion is measured, in pixels.
_SMALLEST = 16  # DIS knows no smaller frames.
_POINTS = 400  # Of an object, by which it is told how it moves.
_RIGID_PIXELS, _RIGID = 1.5, 0.4  # So many of them agree so closely about an object in one piece.
_KEPT = 256  # Longer side of the logits that are kept for corrections.
_ANEW = 0.3  # Of a mask that is the segmenter's, beside what was carried.
_AGREES = 0.5  # IoU of the carried and the refined mask from which the outline is drawn anew.
_LEFT = 0.15  # Of the object's usual area: with less of it the object is lost.
_WHOLE, _LEARNT = 0.7, 0.6  # Share of the usual area, and likeness, from which its look is learnt.
_LIKE = 0.5  # Likeness from which something is the object.
_FOUND = 0.4  # Likewise, of what was searched for.


@dataclass(frozen=True, eq=False)
class BuiltinMemory:
    """What is remembered of one object.

    Attributes:
        frame: The latest frame that was looked at.
        pixels: (h, w, 3) uint8 RGB of it, small; objects of a frame share it.
        mask: (h, w) float32 in [0, 1] of the object in it; all 0 while it is lost.
        appearance: How it looks.
        area: How large it usually is, as a share of the frame.
        logits: Of the frames that can be corrected still, by number.
    """

    frame: int
    pixels: RgbImage = field(repr=False)
    mask: Field = field(repr=False)
    appearance: Appearance = field(repr=False)
    area: float
    logits: Mapping[int, Field] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        kept = sum(each.nbytes for each in self.logits.values())
        return self.pixels.nbytes + self.mask.nbytes + self.appearance.nbytes + kept

    def grown(self, held_frames: int) -> int:
        """See `ObjectMemory.grown`."""
        bare: int = self.pixels.nbytes + self.mask.nbytes + MOST_BYTES
        sides: tuple[int, ...] = self.mask.shape
        # One more, as the sides of both are rounded.
        shorter = 1 + math.ceil(_KEPT * min(sides) / max(sides))
        return bare + held_frames * _KEPT * shorter * 4


class BuiltinTracker:
    """Follows objects by the built-in segmenter."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def track(self, queries: Sequence[TrackQuery]) -> list[Tracked]:
        """See `Tracker.track`."""
        motions = Motions()
        return [self._step(query, motions) for query in queries]

    def _step(self, query: TrackQuery, motions: "Motions") -> Tracked:
        embedding = own_embedding(query.embedding, BuiltinEmbedding)
        memory = None if query.memory is None else own_memory(query.memory, BuiltinMemory)
        pixels = motions.small(embedding)
        if query.prompt is not None:
            logits, score = self._prompted(embedding, query, memory)
            presence = 1.0 if (logits > 0).any() else 0.0
        elif memory is None:
            raise ValueError("an object that no prompt has said anything of cannot be followed")
        else:
            logits, score, presence = self._followed(embedding, pixels, memory, motions)
        return Tracked(logits, score, presence, _remembered(query, memory, pixels, logits))

    def _prompted(
        self, embedding: BuiltinEmbedding, query: TrackQuery, memory: BuiltinMemory | None
    ) -> tuple[Field, float]:
        prompt = query.prompt
        if isinstance(prompt, Rle):
            given = rle_decode(prompt.height, prompt.width, prompt.counts).astype(np.float32)
            return _logits(_resized(given, *_size(embedding.image_size, 1024))), 1.0
        assert prompt is not None  # noqa: S101 - for mypy: asked only with one
        earlier = memory.logits.get(query.frame) if memory is not None else None
        candidates = decode(self._network, embedding, replace(prompt, logits=earlier), multimask=False)
        return candidates.logits[0], float(candidates.predicted_iou[0])

    def _followed(
        self, embedding: BuiltinEmbedding, pixels: RgbImage, memory: BuiltinMemory, motions: "Motions"
    ) -> tuple[Field, float, float]:
        """Logits, predicted IoU and presence."""
        lost = not (memory.mask > 0.5).any()
        carried = memory.mask
        if lost:
            found = search(memory.appearance, pixels)
            if found is None:
                return _nothing(pixels), 0.0, 0.0
            box: Box | None = found
        else:
            carried = motions.carry(memory.mask, memory.pixels, pixels)
            box = _box(carried > 0.5)
        share = float((carried > 0.5).mean())
        if box is None or (not lost and share < _LEFT * memory.area):
            return _nothing(pixels), 0.0, 0.0
        refined, score = self._refined(embedding, box)
        mask = _resized(_mask(refined), *pixels.shape[:2])
        if not lost:
            if _iou(mask > 0.5, carried > 0.5) < _AGREES:
                refined, mask, score = _logits(carried), carried, score * _AGREES
            else:
                mask = (1 - _ANEW) * carried + _ANEW * mask
                refined = _logits(mask)
        likeness = memory.appearance.likeness(pixels, mask > 0.5)
        if likeness < (_FOUND if lost else _LIKE):
            return _nothing(pixels), 0.0, likeness / 2
        return refined, score, max(likeness, 0.5)

    def _refined(self, embedding: BuiltinEmbedding, box: Box) -> tuple[Field, float]:
        height, width = embedding.image_size
        scaled = Box(box.x_min * width, box.y_min * height, box.x_max * width, box.y_max * height)
        candidates = decode(self._network, embedding, ObjectPrompt(box=scaled), multimask=False)
        return candidates.logits[0], float(candidates.predicted_iou[0])


class Motions:
    """Small frames and the motion between them, each made once for all objects of a call."""

    def __init__(self) -> None:
        self._small: dict[int, RgbImage] = {}
        self._flows: dict[tuple[int, int], NDArray[np.float32]] = {}

    def small(self, embedding: BuiltinEmbedding) -> RgbImage:
        """(h, w, 3) uint8 RGB."""
        if id(embedding) not in self._small:
            height, width = _size(embedding.image_size, _SIDE)
            level = next((each for each in reversed(embedding.levels) if max(each.shape) >= _SIDE), embedding.levels[0])
            small = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA)
            self._small[id(embedding)] = np.asarray(small, np.uint8)
        return self._small[id(embedding)]

    def carry(self, mask: Field, before: RgbImage, now: RgbImage) -> Field:
        """A mask of the frame before in the frame now.

        As long as the object moves as one piece its shape moves with it: pixel by pixel, its rim would be left behind
        where it covers what it passes. Otherwise each pixel goes its own way.
        """
        height, width = mask.shape
        sure = cv2.erode((mask > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8))
        points = np.argwhere(sure if sure.any() else mask > 0.5)[:, ::-1]
        points = points[:: max(1, len(points) // _POINTS)]
        ahead = self._flow(before, now)[points[:, 1], points[:, 0]]
        turn, agree = cv2.estimateAffinePartial2D(
            points.astype(np.float32), points + ahead, method=cv2.RANSAC, ransacReprojThreshold=_RIGID_PIXELS
        )
        if turn is not None and np.count_nonzero(agree) >= _RIGID * len(points):
            return np.asarray(cv2.warpAffine(mask, turn, (width, height), flags=cv2.INTER_LINEAR), np.float32)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        back = self._flow(now, before)
        return np.asarray(cv2.remap(mask, columns + back[..., 0], rows + back[..., 1], cv2.INTER_LINEAR), np.float32)

    def _flow(self, one: RgbImage, other: RgbImage) -> NDArray[np.float32]:
        key = (id(one), id(other))
        if key not in self._flows:
            self._flows[key] = _flow(one, other)
        return self._flows[key]


def _flow(one: RgbImage, other: RgbImage) -> NDArray[np.float32]:
    """(h, w, 2) float32: where each pixel of one frame is in the other, from itself."""
    grey, grey_other = (np.asarray(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), np.uint8) for each in (one, other))
    flow = np.zeros((*grey.shape, 2), np.float32)
    if min(grey.shape) >= _SMALLEST:
        cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey, grey_other, flow)
    return flow


def _remembered(query: TrackQuery, memory: BuiltinMemory | None, pixels: RgbImage, logits: Field) -> BuiltinMemory:
    """What is known of the object after an answer. Prompts say how it looks; so does, a little, each frame."""
    mask = _resized(_mask(logits), *pixels.shape[:2])
    inside = mask > 0.5
    kept = (
        {}
        if memory is None
        else {n: each for n, each in memory.logits.items() if query.age(n) <= query.age(query.oldest)}
    )
    kept[query.frame] = _resized(logits, *_size((logits.shape[0], logits.shape[1]), _KEPT))
    if memory is not None and query.age(memory.frame) < 0:  # A correction of an earlier frame.
        return replace(memory, appearance=memory.appearance.learned(pixels, inside, 0.5), logits=kept)
    if memory is None:
        return BuiltinMemory(query.frame, pixels, mask, Appearance.of(pixels, inside), float(inside.mean()), kept)
    if not inside.any():
        return replace(memory, frame=query.frame, pixels=pixels, mask=mask, logits=kept)
    whole = inside.mean() > _WHOLE * memory.area and memory.appearance.likeness(pixels, inside) > _LEARNT
    if query.prompt is None and not whole:  # Something is before it, or it is something else.
        return replace(memory, frame=query.frame, pixels=pixels, mask=mask, logits=kept)
    weight = 0.5 if query.prompt is not None else 0.05
    area = (1 - weight) * memory.area + weight * float(inside.mean())
    return BuiltinMemory(query.frame, pixels, mask, memory.appearance.learned(pixels, inside, weight), area, kept)


def _size(image_size: tuple[int, int], longest: int) -> tuple[int, int]:
    height, width = image_size
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(values: Field, height: int, width: int) -> Field:
    if values.shape == (height, width):
        return values
    way = cv2.INTER_AREA if values.shape[0] > height else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, (width, height), interpolation=way), np.float32)


def _mask(logits: Field) -> Field:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -LOGIT, LOGIT))), np.float32)


def _logits(mask: Field) -> Field:
    odds = np.clip(mask, 1e-5, 1 - 1e-5)
    return np.asarray(np.log(odds / (1 - odds)), np.float32)


def _nothing(pixels: RgbImage) -> Field:
    return np.full(pixels.shape[:2], -LOGIT, np.float32)


def _box(inside: NDArray[np.bool_]) -> Box | None:
    """In shares of the frame."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    height, width = inside.shape
    return Box(
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    both = np.count_nonzero(one & other)
    return int(both) / max(int(np.count_nonzero(one | other)), 1)
