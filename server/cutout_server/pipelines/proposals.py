"""From a request to candidate masks at low resolution, chunk by chunk."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cutout_server.catalogue import ModelSpec
from cutout_server.models.base import Candidates, DecodeQuery, Embedding
from cutout_server.models.operations import DECODE
from cutout_server.pools.placement import Seat
from cutout_server.types import (
    Box,
    Logits,
    ObjectPrompt,
    SegmentedObject,
    Strategy,
)

# Prompts decoded at once: enough for one good pass, few enough that their logits stay small and that a caller who
# leaves is noticed soon.
CHUNK = 64


@dataclass(frozen=True)
class Proposal:
    """A mask that may come back.

    Attributes:
        prompt_index: See SegmentedObject, here and below.
        embedding: What the logits were made from.
        logits: (h, w) float32 at the model's low resolution.
    """

    prompt_index: int
    label: str
    detection_score: float | None
    prompt_box: Box | None
    predicted_iou: float
    embedding: Embedding = field(repr=False)
    logits: Logits = field(repr=False)
    stability_score: float | None = None


@dataclass(frozen=True)
class Found:
    """A prompt, and what is already known about its object."""

    prompt_index: int
    prompt: ObjectPrompt
    label: str = ""
    detection_score: float | None = None


@dataclass(frozen=True)
class Workplace:
    """Where a request is worked on."""

    seat: Seat
    segmenter: ModelSpec
    embedding: Embedding


async def from_prompts(
    place: Workplace, found: Sequence[Found], *, multimask: bool, strategy: Strategy
) -> AsyncIterator[list[Proposal]]:
    """Decodes prompts; with BEST and MERGE only the best candidate of each goes on."""
    only_best = strategy in {Strategy.BEST, Strategy.MERGE}
    for start in range(0, len(found), CHUNK):
        chunk = found[start : start + CHUNK]
        decoded = await _decode(place, [one.prompt for one in chunk], multimask=multimask)
        yield [
            Proposal(
                one.prompt_index,
                one.label,
                one.detection_score,
                one.prompt.box,
                float(candidates.predicted_iou[index]),
                place.embedding,
                candidates.logits[index],
            )
            for one, candidates in zip(chunk, decoded, strict=True)
            for index in np.argsort(-candidates.predicted_iou, kind="stable")[: 1 if only_best else None]
        ]


async def ready(proposals: Sequence[Proposal]) -> AsyncIterator[list[Proposal]]:
    """Those that need no decoder, chunk by chunk."""
    for start in range(0, len(proposals), CHUNK):
        yield list(proposals[start : start + CHUNK])


async def made(objects: Sequence[SegmentedObject]) -> AsyncIterator[SegmentedObject]:
    """Those that need nothing more."""
    for each in objects:
        yield each


async def _decode(place: Workplace, prompts: Sequence[ObjectPrompt], *, multimask: bool) -> Sequence[Candidates]:
    queries = [DecodeQuery(place.embedding, prompt, multimask) for prompt in prompts]
    return await place.seat.ask_all(DECODE, place.segmenter, queries)
