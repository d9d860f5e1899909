"""What passes through the Protocols: questions and answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.embedding import Embedding, ObjectMemory
from cutout_server.types import Box, Exemplar, Logits, MaskPatch, ObjectPrompt, Rle

MULTIMASK = 3  # whole, part, subpart


@dataclass(frozen=True)
class DecodeQuery:
    """One object to be decoded.

    Attributes:
        embedding: From `encode` of the same model.
        prompt: In pixels of the picture.
        multimask: MULTIMASK candidates instead of one.
    """

    embedding: Embedding
    prompt: ObjectPrompt
    multimask: bool


@dataclass(frozen=True)
class Candidates:
    """What the decoder makes of one prompt.

    Attributes:
        logits: (C, h, w) float32 at the model's low resolution; C is 1, or MULTIMASK with multimask. As the
            decoder made them: masks come from these, and callers get them clamped to the family's `max_logit`.
        predicted_iou: (C,) float32, the model's own estimate of each mask's IoU with the true one.
    """

    logits: NDArray[np.float32] = field(repr=False)
    predicted_iou: NDArray[np.float32]

    def best(self, most: int) -> list[tuple[Logits, float]]:
        """So many of them at most, each with its predicted IoU; the best one first."""
        order = np.argsort(-self.predicted_iou, kind="stable")[:most]
        return [(self.logits[index], float(self.predicted_iou[index])) for index in order]


@dataclass(frozen=True)
class MaskQuery:
    """One mask to be made at the picture's size.

    Attributes:
        embedding: The one that the logits were decoded from.
        logits: (h, w) float32 of one candidate.
        threshold: Logits above it are inside.
    """

    embedding: Embedding
    logits: Logits
    threshold: float


@dataclass(frozen=True)
class CutQuery:
    """One object whose masks at the picture's size are wanted, in two passes: it is decoded, then its masks are made.

    Attributes:
        embedding: From `encode` of the same model.
        prompt: See DecodeQuery.
        multimask: Likewise.
        most: Of the candidates, so many are wanted, the best ones.
        threshold: Logits above it are inside.
        with_logits: Whether their logits are wanted too.
    """

    embedding: Embedding
    prompt: ObjectPrompt
    multimask: bool
    most: int
    threshold: float
    with_logits: bool = False


@dataclass(frozen=True)
class CutMask:
    """One of an object's masks.

    Attributes:
        mask: At the picture's size.
        predicted_iou: The model's own estimate of its IoU with the true mask.
        logits: (h, w) float32 as the decoder made them; None unless they were asked for.
    """

    mask: MaskPatch
    predicted_iou: float
    logits: Logits | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ProposeQuery:
    """A picture of which everything is wanted.

    Attributes:
        embedding: From `encode` of the same model.
        points_per_side: How fine to look.
    """

    embedding: Embedding
    points_per_side: int


@dataclass(frozen=True)
class MaskFilter:
    """What a mask must be like to be kept, as in the official automatic mask generators.

    Attributes:
        mask_threshold: Logits above it are inside.
        predicted_iou: Masks must exceed it; 0 keeps all.
        stability_score: Masks must reach it; 0 keeps all.
        stability_offset: By how much the threshold is raised and lowered for the score.
    """

    mask_threshold: float
    predicted_iou: float
    stability_score: float
    stability_offset: float


@dataclass(frozen=True)
class PointQuery:
    """A point of which the masks that pass a mask filter are wanted.

    Attributes:
        embedding: From `encode` of the same model.
        point: (x, y) in pixels of the picture.
        mask_filter: What is kept.
        with_logits: Whether the masks' logits are wanted too.
    """

    embedding: Embedding
    point: tuple[float, float]
    mask_filter: MaskFilter
    with_logits: bool = False


@dataclass(frozen=True)
class FilteredMask:
    """A mask that passed a mask filter.

    Attributes:
        mask: At the picture's size.
        predicted_iou: The model's own estimate of its IoU with the true mask.
        stability_score: IoU between the masks at the raised and the lowered threshold, measured at the picture's size;
            NaN when both are empty.
        logits: (h, w) float32 as the decoder made them; None unless they were asked for.
    """

    mask: Rle
    predicted_iou: float
    stability_score: float
    logits: Logits | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FilteredMasks:
    """What a mask filter made of the masks of one point.

    Attributes:
        kept: Those that pass, in the decoder's order.
        doubted: The predicted IoU of each that does not exceed the filter's.
        unstable: The stability score of each of the others that does not reach the filter's.
    """

    kept: Sequence[FilteredMask]
    doubted: Sequence[float] = ()
    unstable: Sequence[float] = ()


@dataclass(frozen=True)
class DetectQuery:
    """Words to be found in a picture.

    Attributes:
        embedding: From `image_features` of the same model.
        phrases: As the caller wrote them.
        box_threshold: Least score of a detection, in [0, 1].
        text_threshold: Least match of a phrase, in [0, 1].
    """

    embedding: Embedding = field(repr=False)
    phrases: tuple[str, ...]
    box_threshold: float
    text_threshold: float


@dataclass(frozen=True)
class Detection:
    """One find.

    Attributes:
        box: In pixels of the picture.
        score: In [0, 1].
        phrase_index: Which of the query's phrases it is.
    """

    box: Box
    score: float
    phrase_index: int


@dataclass(frozen=True)
class TextQuery:
    """Words whose masks are wanted.

    Attributes:
        embedding: From `encode` of the same model.
        phrases: As the caller wrote them.
        box_threshold: Least score of a find, in [0, 1].
        exemplars: They hold for every phrase; their boxes are clipped to the picture.
    """

    embedding: Embedding = field(repr=False)
    phrases: tuple[str, ...]
    box_threshold: float
    exemplars: tuple[Exemplar, ...] = ()


@dataclass(frozen=True)
class TextFind:
    """One object that a text segmenter found.

    Attributes:
        box: In pixels of the picture; where the model says that the object is.
        score: In [0, 1]; None when the model gives none.
        phrase_index: Which of the query's phrases it is.
        embedding: What `masks` needs beside the logits: the picture's size at least.
        logits: (h, w) float32 of the mask, over whatever part of the picture the embedding says.
    """

    box: Box
    score: float | None
    phrase_index: int
    embedding: Embedding = field(repr=False)
    logits: Logits = field(repr=False)


@dataclass(frozen=True)
class GenerateQuery:
    """A picture that is wanted.

    Attributes:
        prompt: What it shows.
        negative_prompt: What it must not show; may be empty.
        width: In pixels, a multiple of 8; 0 for the model's own.
        height: Likewise.
        steps: Of denoising.
        guidance: How closely to follow the prompt; 1 turns classifier-free guidance off.
        seed: The same seed and query give the same picture on the same device, alone or in company.
        progress: Called from the device's thread with the number of steps done, after each.
        cancelled: Asked before each step; true ends the work with an AbandonedError.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    progress: Callable[[int], None] = field(repr=False)
    cancelled: Callable[[], bool] = field(repr=False)


@dataclass(frozen=True)
class TrackQuery:
    """A frame into which an object is to be followed.

    Attributes:
        embedding: The frame's, from `encode` of the same model.
        frame: Its number among those that were looked at, from 0.
        memory: What an earlier answer of the same model remembers of the object; None before its first prompt.
        prompt: What is said of the object in this frame, or its mask there; None lets it be found. On a frame that was
            not looked at yet it says what the object is; on one that was, it corrects that answer.
        oldest: No frame before this one (after this one, when `reverse`) will be asked for again.
        reverse: Whether the video is gone through backwards: frames with higher numbers were looked at before. Prompted
            ones may lie anywhere either way.
        frames: How many the video has; None while nobody knows.
    """

    embedding: Embedding = field(repr=False)
    frame: int
    memory: ObjectMemory | None = field(repr=False)
    prompt: ObjectPrompt | Rle | None
    oldest: int
    reverse: bool = False
    frames: int | None = None

    def age(self, frame: int) -> int:
        """How many frames ago another one was; below 0 if it is yet to come."""
        return frame - self.frame if self.reverse else self.frame - frame


@dataclass(frozen=True)
class Sighting:
    """How an object was found in a frame.

    Attributes:
        logits: (h, w) float32 over the frame, at whatever resolution; for `masks` with the frame's embedding.
        predicted_iou: The model's own estimate of the mask's IoU with the true one.
        presence: How likely it is that the object is in the frame at all, in [0, 1].
    """

    logits: Logits = field(repr=False)
    predicted_iou: float
    presence: float


@dataclass(frozen=True)
class Tracked(Sighting):
    """An object in a frame, and what is remembered of it from there on.

    Attributes:
        memory: What is to be asked with next.
    """

    memory: ObjectMemory = field(repr=False)


class AbandonedError(Exception):
    """Nobody waits for the answer any more. Not a CancelledError, which would end the pool's worker."""
