"""Boxes, points and earlier masks: one object for each prompt."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cutout_common.status import FieldViolation

from cutout_server.catalogue import ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import DECODE
from cutout_server.models.queries import MULTIMASK, CutQuery, DecodeQuery
from cutout_server.pipelines.candidates import CHUNK, Candidate, FinishedMask, LabelledPrompt, LowResMask, Proposals
from cutout_server.pipelines.context import Context, Plan, Shared
from cutout_server.pipelines.finishing import fit_at_once
from cutout_server.pipelines.kinds.masks_kind import MasksKind
from cutout_server.pipelines.views import Views, best_view, moved
from cutout_server.types import Box, ObjectPrompt, Options, Picture, PromptsRequest, SegmentedObject, Strategy, Task

_Decode = Callable[
    [Context, Embedding, Sequence[LabelledPrompt], Options],
    Awaitable[Sequence[Sequence[tuple[LowResMask | FinishedMask, float]]]],
]


@dataclass(frozen=True)
class Prompts(MasksKind[PromptsRequest]):
    """Decodes each prompt.

    Attributes:
        indices: Of the prompts in the caller's request, when they are only some of them.
    """

    indices: Sequence[int] | None = None

    def plan(self, shared: Shared, segmenter: ModelSpec | None) -> Plan:
        chosen = segmenter or shared.catalogue.choose(self.request.segmenter, Task.SEGMENT, "segmenter")
        return Plan(chosen, needs_pixels=False, keeps_order=True)

    async def propose(self, context: Context) -> Proposals:
        prompts = fitted(self.request, context.image)
        indices = range(len(prompts)) if self.indices is None else self.indices
        labelled = [LabelledPrompt(index, prompt) for index, prompt in zip(indices, prompts, strict=True)]
        embedding = await context.embedding()
        options = self.request.options
        candidates = decode_prompts(context, embedding, labelled, options)
        return Proposals(candidates, most_candidates(len(labelled), options), (context.plan.segmenter.name,))

    async def over_views(self, views: Views) -> list[SegmentedObject]:
        """Each prompt in the view that holds it best, and in the whole image if its object goes on beyond that."""
        prompts = fitted(self.request, views.context.image)
        places = [best_view(prompt, views.tiles) for prompt in prompts]
        found: list[SegmentedObject] = []
        # The whole image comes last, when it is known what is cut in the tiles.
        for view in [*range(1, len(views.tiles)), 0]:
            indices = [index for index, place in enumerate(places) if place == view]
            if not indices:
                continue
            tile = views.tiles[view]
            held = replace(self.request, prompts=tuple(moved(prompts[index], tile) for index in indices))
            objects = await views.see(view, Prompts(held, indices))
            cut = {part.prompt_index for part in objects if view and views.cuts(view, part.box)}
            for index in cut:
                places[index] = 0
            found += [whole for whole in objects if whole.prompt_index not in cut]
        return sorted(found, key=lambda segmented: segmented.prompt_index)


def most_candidates(prompts: int, options: Options) -> int:
    """How many candidates so many prompts can have."""
    only_best = options.strategy in {Strategy.BEST, Strategy.MERGE}
    return prompts * (MULTIMASK if options.multimask and not only_best else 1)


async def decode_prompts(
    context: Context, embedding: Embedding, prompts: Sequence[LabelledPrompt], options: Options
) -> AsyncIterator[list[Candidate]]:
    """Decodes prompts; with BEST and MERGE only the best candidate of each goes on.

    Those whose masks may all be in hand at once have them made as well, so that nothing is asked in between.
    """
    for start in range(0, len(prompts), CHUNK):
        chunk = prompts[start : start + CHUNK]
        at_once = fit_at_once(most_candidates(len(chunk), options), context.image)
        decode: _Decode = _finished if at_once else _low_res
        yield [
            Candidate(
                mask,
                labelled.prompt_index,
                predicted_iou,
                labelled.label,
                labelled.detection_score,
                labelled.prompt.box,
            )
            for labelled, found in zip(chunk, await decode(context, embedding, chunk, options), strict=True)
            for mask, predicted_iou in found
        ]


async def _finished(
    context: Context, embedding: Embedding, prompts: Sequence[LabelledPrompt], options: Options
) -> list[list[tuple[FinishedMask, float]]]:
    """The masks of each prompt at the image's size, with their predicted IoU."""
    most, threshold = most_candidates(1, options), options.mask_threshold
    queries = [
        CutQuery(embedding, labelled.prompt, options.multimask, most, threshold, options.return_logits)
        for labelled in prompts
    ]
    cut = await context.slots.segmenter.cut(context.plan.segmenter, queries)
    return [[(FinishedMask(each.mask, each.logits), each.predicted_iou) for each in found] for found in cut]


async def _low_res(
    context: Context, embedding: Embedding, prompts: Sequence[LabelledPrompt], options: Options
) -> list[list[tuple[LowResMask, float]]]:
    """The same as the decoder makes them."""
    queries = [DecodeQuery(embedding, labelled.prompt, options.multimask) for labelled in prompts]
    decoded = await context.slots.segmenter.ask_all(DECODE, context.plan.segmenter, queries)
    most = most_candidates(1, options)
    return [[(LowResMask(embedding, logits), iou) for logits, iou in masks.best(most)] for masks in decoded]


def fitted(request: PromptsRequest, image: Picture) -> tuple[ObjectPrompt, ...]:
    """The prompts with their boxes clipped to the image.

    Raises:
        InvalidRequestError: A point lies outside, or nothing of a box is left.
    """
    violations: list[FieldViolation] = []
    prompts = []
    for index, prompt in enumerate(request.prompts):
        path = f"{request.fields.prompts}[{index}]"
        violations.extend(_points_outside(prompt, image, path + request.fields.point))
        box = prompt.box and prompt.box.clipped(image.height, image.width)
        if prompt.box and box is None:
            expected = f"expected a box that overlaps the {image.width} x {image.height} picture"
            violations.append(FieldViolation(path + request.fields.box, f"{expected}, got {_text(prompt.box)}"))
        prompts.append(replace(prompt, box=box))
    if violations:
        raise InvalidRequestError(*violations)
    return tuple(prompts)


def _points_outside(prompt: ObjectPrompt, image: Picture, field: str) -> Sequence[FieldViolation]:
    size = np.array([image.width, image.height])
    outside = np.flatnonzero(((prompt.points < 0) | (prompt.points >= size)).any(axis=1))
    expected = f"expected 0 <= x < {image.width} and 0 <= y < {image.height}"
    return [
        FieldViolation(field.format(index), f"{expected}, got ({x:g}, {y:g})")
        for index, (x, y) in zip(outside, prompt.points[outside], strict=True)
    ]


def _text(box: Box) -> str:
    return f"[{box.x_min:g}, {box.y_min:g}, {box.x_max:g}, {box.y_max:g}]"
