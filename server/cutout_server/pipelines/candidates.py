"""Candidates: the masks that may come back, before they are chosen among."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from cutout_server.models.embedding import Embedding
from cutout_server.pipelines.concepts import Describer
from cutout_server.types import Box, ConceptScore, Logits, MaskPatch, ObjectPrompt, Rewriting, Rle

# Candidates at once: prompts enough for one good pass of a decoder, few enough that their logits stay small and that a
# caller who leaves is noticed soon.
CHUNK = 64


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt, and what is already known about its object."""

    prompt_index: int
    prompt: ObjectPrompt
    label: str = ""
    detection_score: float | None = None


@dataclass(frozen=True)
class LowResMask:
    """A mask as a decoder makes it.

    Attributes:
        embedding: What it was made from.
        logits: (h, w) float32 at the model's low resolution.
    """

    embedding: Embedding = field(repr=False)
    logits: Logits = field(repr=False)


@dataclass(frozen=True)
class FinishedMask:
    """A mask at the image's size.

    Attributes:
        mask: The mask.
        logits: (h, w) float32 at the model's low resolution, if they are wanted.
    """

    mask: MaskPatch | Rle
    logits: Logits | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Candidate:
    """A mask that may come back; see SegmentedObject for the other attributes."""

    mask: LowResMask | FinishedMask
    prompt_index: int
    predicted_iou: float
    label: str = ""
    detection_score: float | None = None
    prompt_box: Box | None = None
    stability_score: float | None = None


@dataclass(frozen=True)
class Proposals:
    """What a kind gives for a request before the first mask is made: its candidates, and what the answer tells beside.

    Attributes:
        candidates: Chunk by chunk; can be taken once.
        most: How many candidates there can be, as far as is known.
        models: Names of those that work on it, in their order.
        rewriting: What became of the phrases; None when they were not to be rewritten.
        concepts: What the whole image shows.
        describer: Says what each object shows; None when that was not asked.
    """

    candidates: AsyncIterator[Sequence[Candidate]]
    most: int
    models: tuple[str, ...]
    rewriting: Rewriting | None = None
    concepts: tuple[ConceptScore, ...] = ()
    describer: Describer | None = None


async def in_chunks(candidates: Sequence[Candidate]) -> AsyncIterator[Sequence[Candidate]]:
    """Candidates that are there already, chunk by chunk."""
    for start in range(0, len(candidates), CHUNK):
        yield candidates[start : start + CHUNK]
