"""From a request to candidate masks at low resolution, chunk by chunk."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cutout_server.catalogue import ModelSpec
from cutout_server.imaging.masks import stability_score
from cutout_server.models.base import Candidates, DecodeQuery, Embedding, ProposeQuery
from cutout_server.pools.placement import Seat
from cutout_server.types import (
    Box,
    EverythingRequest,
    Logits,
    ObjectPrompt,
    Picture,
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


async def everything(place: Workplace, request: EverythingRequest, picture: Picture) -> AsyncIterator[list[Proposal]]:
    """Proposes everything and leaves out what the model itself doubts or what a small change of threshold alters.

    A grid of single points with three candidates each, as in Kirillov et al. 2023, appendix B, unless the segmenter has
    a better way.
    """
    family = place.segmenter.family
    least_iou = request.predicted_iou_threshold
    least_iou = family.predicted_iou_threshold if least_iou is None else least_iou
    least_stability = request.stability_threshold
    least_stability = family.stability_threshold if least_stability is None else least_stability
    async for candidates in _candidates(place, request.points_per_side, picture):
        likely = [
            Proposal(0, "", None, None, float(iou), place.embedding, logits)
            for each in candidates
            for logits, iou in zip(each.logits, each.predicted_iou, strict=True)
            if iou >= least_iou
        ]
        scores = await asyncio.to_thread(_stability, likely, request.options.mask_threshold)
        yield [
            replace(proposal, stability_score=score)
            for proposal, score in zip(likely, scores, strict=True)
            if score >= least_stability
        ]


async def _candidates(place: Workplace, points_per_side: int, picture: Picture) -> AsyncIterator[Sequence[Candidates]]:
    if place.segmenter.family.proposes:
        query = ProposeQuery(place.embedding, points_per_side)
        yield [await place.seat.ask(place.segmenter, "propose", query, stage="prompt")]
        return
    for points in _grid(points_per_side, picture):
        prompts = [ObjectPrompt(points=point[None], labels=np.ones(1, np.int32)) for point in points]
        yield await _decode(place, prompts, multimask=True)


def _grid(points_per_side: int, picture: Picture) -> Iterator[NDArray[np.float32]]:
    """(N, 2) points at the centres of a points_per_side ** 2 grid of cells, chunk by chunk."""
    steps = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    grid = np.stack(np.meshgrid(steps * picture.width, steps * picture.height), axis=-1).reshape(-1, 2)
    for start in range(0, len(grid), CHUNK):
        yield grid[start : start + CHUNK].astype(np.float32)


async def _decode(place: Workplace, prompts: Sequence[ObjectPrompt], *, multimask: bool) -> Sequence[Candidates]:
    queries = [DecodeQuery(place.embedding, prompt, multimask) for prompt in prompts]
    return await place.seat.ask_all(place.segmenter, "decode", queries, stage="prompt")


def _stability(proposals: Sequence[Proposal], threshold: float) -> list[float]:
    return [stability_score(proposal.logits, threshold) for proposal in proposals]
