"""The Protocols that a model family fills in, and what passes through them.

Every method takes a sequence of questions and gives as many answers, in the same order: the pool joins the waiting
questions of several requests into one call. Methods are called from one thread at a time per device; they must not
keep state between calls, so that no request can disturb another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.runtime import Engine, Runtime
from cutout_server.types import Box, Exemplar, Features, Logits, MaskPatch, ObjectPrompt, RgbImage, Rle


class Embedding(Protocol):
    """A picture after the encoder, together with whatever the decoder needs of it. Immutable once made."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture, in pixels."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        ...


@dataclass(frozen=True)
class DecodeQuery:
    """One object to be decoded.

    Attributes:
        embedding: From `encode` of the same model.
        prompt: In pixels of the picture.
        multimask: Three candidates instead of one.
    """

    embedding: Embedding
    prompt: ObjectPrompt
    multimask: bool


@dataclass(frozen=True)
class Candidates:
    """What the decoder makes of one prompt.

    Attributes:
        logits: (C, h, w) float32 at the model's low resolution; C is 1, or 3 with multimask. As the decoder made them:
            masks come from these, and callers get them clamped to the family's `max_logit`.
        predicted_iou: (C,) float32, the model's own estimate of each mask's IoU with the true one.
    """

    logits: NDArray[np.float32] = field(repr=False)
    predicted_iou: NDArray[np.float32]


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
class ProposeQuery:
    """A picture of which everything is wanted.

    Attributes:
        embedding: From `encode` of the same model.
        points_per_side: How fine to look.
    """

    embedding: Embedding
    points_per_side: int


@dataclass(frozen=True)
class Sieve:
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
class SiftQuery:
    """A point of which the masks that pass a sieve are wanted.

    Attributes:
        embedding: From `encode` of the same model.
        point: (x, y) in pixels of the picture.
        sieve: What is kept.
        with_logits: Whether the masks' logits are wanted too.
    """

    embedding: Embedding
    point: tuple[float, float]
    sieve: Sieve
    with_logits: bool = False


@dataclass(frozen=True)
class Sifted:
    """A mask that passed a sieve.

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
class Sifting:
    """What a sieve made of the masks of one point.

    Attributes:
        kept: Those that pass, in the decoder's order.
        doubted: The predicted IoU of each that does not exceed the sieve's.
        unstable: The stability score of each of the others that does not reach the sieve's.
    """

    kept: Sequence[Sifted]
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


class AbandonedError(Exception):
    """Nobody waits for the answer any more. Not a CancelledError, which would end the pool's worker."""


@runtime_checkable
class Segmenter(Protocol):
    """Prompts to masks."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def encode(self, images: Sequence[RgbImage]) -> Sequence[Embedding]:
        """Encodes pictures of any sizes, (H, W, 3) uint8 RGB each."""
        ...

    def decode(self, queries: Sequence[DecodeQuery]) -> Sequence[Candidates]:
        """Decodes prompts on their embeddings."""
        ...

    def masks(self, queries: Sequence[MaskQuery]) -> Sequence[MaskPatch]:
        """Brings logits to the picture's size."""
        ...


@runtime_checkable
class Proposer(Protocol):
    """A segmenter that has its own way to find everything, better than a grid of points."""

    def propose(self, queries: Sequence[ProposeQuery]) -> Sequence[Candidates]:
        """Candidates for everything in each picture, C of them, any number."""
        ...


@runtime_checkable
class Sifter(Protocol):
    """A segmenter that finds everything by a grid of points. Those that are no Proposers are this."""

    def sift(self, queries: Sequence[SiftQuery]) -> Sequence[Sifting]:
        """Decodes each point into three masks and keeps those that pass.

        Masks never leave the device at full size all together, and those that do not pass never leave it at all.
        """
        ...


@runtime_checkable
class Detector(Protocol):
    """Words to boxes."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def image_features(self, images: Sequence[RgbImage]) -> Sequence[Embedding]:
        """What pictures of any sizes, (H, W, 3) uint8 RGB each, show before there are words."""
        ...

    def detect(self, queries: Sequence[DetectQuery]) -> Sequence[Sequence[Detection]]:
        """Finds the phrases; nothing found is an empty sequence.

        Raises:
            InvalidRequestError: A phrase is outside the model's vocabulary.
        """
        ...


@runtime_checkable
class TextSegmenter(Protocol):
    """Words to masks, without a detector between. One that is a `Segmenter` too has one `encode` for both."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def encode(self, images: Sequence[RgbImage]) -> Sequence[Embedding]:
        """Encodes pictures of any sizes, (H, W, 3) uint8 RGB each."""
        ...

    def segment_text(self, queries: Sequence[TextQuery]) -> Sequence[Sequence[TextFind]]:
        """Finds and outlines the phrases; nothing found is an empty sequence."""
        ...

    def masks(self, queries: Sequence[MaskQuery]) -> Sequence[MaskPatch]:
        """Brings the logits of finds to the picture's size, on the embeddings that came with them."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """Pictures and texts to vectors of one space."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def embed_pictures(self, images: Sequence[RgbImage]) -> Sequence[Features]:
        """(D,) float32 of unit length for each picture, (H, W, 3) uint8 RGB of any size."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Features]:
        """(D,) float32 for each text, of such a length that its dot product with a picture's features is the logit.

        Raises:
            InvalidRequestError: A text is longer than the model can read.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Words to pictures."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def generate(self, queries: Sequence[GenerateQuery]) -> Sequence[RgbImage]:
        """(height, width, 3) uint8 RGB for each query.

        Raises:
            AbandonedError: Nobody waits for a picture any more.
            InvalidRequestError: The model cannot take so many steps.
            TooLargeError: The device's memory does not hold such a picture on its way.
        """
        ...


Model = Segmenter | Detector | TextSegmenter | Classifier | Generator


class Task(Enum):
    """What a model can do."""

    SEGMENT = "segment"
    DETECT = "detect"
    EVERYTHING = "segment everything"
    SEGMENT_TEXT = "segment by text"
    CLASSIFY = "classify"
    GENERATE = "generate"


@dataclass(frozen=True)
class ModelFiles:
    """What a model is made of, on this machine.

    Attributes:
        checkpoint: A file, or a folder as `save_pretrained` writes it.
        config: The name of an architecture or a file that describes it, for families that need to be told.
        companions: Further files and folders, by the names that the family gives them.
    """

    checkpoint: Path | None = None
    config: str | None = None
    companions: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A kind of model and how to load one.

    Attributes:
        name: What settings call it.
        tasks: What it can do.
        load: (files, device, runtime) -> model, ready for use on that device ("cpu", "cuda:0" ...). Raises
            FailedPreconditionError, with a text that says what to do, when the files cannot be used.
        engines: That can run its encoder; empty for models that leave no choice, and are given a runtime in vain.
        bf16_needs_amx: Whether bf16 gains too little on a CPU without AMX for `auto` to leave the answers of fp32.
        needs_checkpoint: Whether settings must name one.
        companions: Further files that settings must name.
        optional_companions: Further files that settings may name, for some checkpoints of the family.
        extra: The extra of the `cutout` distribution that brings its packages.
        exemplars: Whether it takes boxes around examples of what is wanted.
        proposes: Whether its models are Proposers too.
        max_batch: Most jobs in one pass that it gains from; a pass cannot be interrupted, so no more than that.
        vocabulary: The only words that it understands; empty when it has no such list.
        box_threshold: Default for detection.
        text_threshold: Default for detection.
        predicted_iou_threshold: Default for everything.
        stability_threshold: Default for everything.
        max_logit: Callers get logits clamped to [-max_logit, max_logit], as the reference's predictor hands them out.
    """

    name: str
    tasks: frozenset[Task]
    load: Callable[[ModelFiles, str, Runtime], Model]
    engines: frozenset[Engine] = frozenset()
    bf16_needs_amx: bool = False
    needs_checkpoint: bool = True
    companions: tuple[str, ...] = ()
    optional_companions: tuple[str, ...] = ()
    extra: str = "server"
    exemplars: bool = False
    proposes: bool = False
    max_batch: int = 64
    vocabulary: tuple[str, ...] = ()
    box_threshold: float = 0.35
    text_threshold: float = 0.25
    predicted_iou_threshold: float = 0.8
    stability_threshold: float = 0.95
    max_logit: float = 32.0
