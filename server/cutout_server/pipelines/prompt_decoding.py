"""Prompts to candidates."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np

from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import DECODE
from cutout_server.models.queries import MULTIMASK, DecodeQuery
from cutout_server.pipelines.candidates import CHUNK, Candidate, LowResMask
from cutout_server.pipelines.context import Context
from cutout_server.types import ObjectPrompt, Options, Strategy


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt, and what is already known about its object."""

    prompt_index: int
    prompt: ObjectPrompt
    label: str = ""
    detection_score: float | None = None


def most_candidates(prompts: int, options: Options) -> int:
    """How many candidates so many prompts can have."""
    only_best = options.strategy in {Strategy.BEST, Strategy.MERGE}
    return prompts * (MULTIMASK if options.multimask and not only_best else 1)


async def decode_prompts(
    context: Context, embedding: Embedding, prompts: Sequence[LabelledPrompt], options: Options
) -> AsyncIterator[list[Candidate]]:
    """Decodes prompts; with BEST and MERGE only the best candidate of each goes on."""
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        queries = [DecodeQuery(embedding, labelled.prompt, options.multimask) for labelled in chunk]
        decoded = await context.slots.segmenter.ask_all(DECODE, context.models.segmenter, queries)
        yield [
            Candidate(
                LowResMask(embedding, masks.logits[index]),
                labelled.prompt_index,
                float(masks.predicted_iou[index]),
                labelled.label,
                labelled.detection_score,
                labelled.prompt.box,
            )
            for labelled, masks in zip(chunk, decoded, strict=True)
            for index in np.argsort(-masks.predicted_iou, kind="stable")[: most_candidates(1, options)]
        ]
