"""Candidates to objects: masks at the image's size, cleaned, measured, chosen among and encoded."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from cutout_server import call_context
from cutout_server.imaging import masks
from cutout_server.models.operations import MASKS
from cutout_server.models.queries import MaskQuery
from cutout_server.pipelines.candidates import Candidate, LowResMask
from cutout_server.pipelines.context import Context
from cutout_server.pipelines.selection import select
from cutout_server.types import (
    Box,
    MaskFormat,
    MaskPatch,
    OmissionReason,
    Options,
    Picture,
    Rle,
    SegmentedObject,
)

S = TypeVar("S")
T = TypeVar("T")

# Of masks in hand at once, pixels of the parts of the image that they are in; a larger mask is alone.
PIXELS_AT_ONCE = 32_000_000
_JOBS = 4  # Enough for the cores that decode images beside, few enough to cost nothing.


@dataclass(frozen=True)
class Finisher:
    """Finishes the candidates of a request.

    Attributes:
        context: Where that is done.
        options: What to make of the masks.
    """

    context: Context
    options: Options

    @property
    def nms_iou(self) -> float:
        """Masks that overlap a better one of the same label by more are left out; 1 keeps all."""
        nms_iou = self.options.nms_iou
        return self.context.plan.default_nms_iou if nms_iou is None else nms_iou

    async def selected(self, candidates: AsyncIterator[Sequence[Candidate]]) -> list[SegmentedObject]:
        """The objects that come back, all of them, with nothing encoded."""
        made = [found async for chunk in self.objects(candidates) for found in chunk]
        if not self.context.plan.keeps_order:
            made.sort(key=lambda found: -found.score)
        with call_context.stage("masks"):
            return await self.context.off_loop(select, made, self.options, self.nms_iou, self.context.omissions)

    async def objects(
        self, candidates: AsyncIterator[Sequence[Candidate]], formats: Sequence[MaskFormat] = ()
    ) -> AsyncIterator[list[SegmentedObject]]:
        """Every object, chunk by chunk, before any is compared with another."""
        async for chunk in candidates:
            for part in await self._parts(chunk):
                made = list(zip(part, await self._finished(part, formats), strict=True))
                for candidate, found in made:
                    if isinstance(found, OmissionReason):
                        self.context.omissions.add(found, candidate.prompt_index)
                yield [found for _, found in made if isinstance(found, SegmentedObject)]

    async def encoded(
        self, objects: Sequence[SegmentedObject], formats: Sequence[MaskFormat]
    ) -> Sequence[SegmentedObject]:
        """The same with their masks in the formats."""
        if not formats:
            return objects
        with call_context.stage("masks"):
            return await self._spread(partial(_encode, formats=formats, options=self.options), objects)

    async def _parts(self, chunk: Sequence[Candidate]) -> list[Sequence[Candidate]]:
        """Cuts a chunk where its masks would take too much memory together."""
        image = self.context.image
        if fit_at_once(len(chunk), image):
            return [chunk]
        with call_context.stage("masks"):
            size, threshold = (image.height, image.width), self.options.mask_threshold
            needs = await self.context.off_loop(_needs, chunk, size, threshold)
        parts: list[list[Candidate]] = []
        room = 0
        for candidate, need in zip(chunk, needs, strict=True):
            if not parts or need > room:
                parts.append([])
                room = PIXELS_AT_ONCE
            parts[-1].append(candidate)
            room -= need
        return [*parts]

    async def _finished(
        self, chunk: Sequence[Candidate], formats: Sequence[MaskFormat]
    ) -> Sequence[SegmentedObject | OmissionReason]:
        segmenter, threshold = self.context.plan.segmenter, self.options.mask_threshold
        low_res = [candidate.mask for candidate in chunk if isinstance(candidate.mask, LowResMask)]
        queries = [MaskQuery(mask.embedding, mask.logits, threshold) for mask in low_res]
        patches = iter(await self.context.slots.segmenter.ask_all(MASKS, segmenter, queries) if queries else ())
        pairs = [
            (candidate, next(patches) if isinstance(candidate.mask, LowResMask) else candidate.mask.mask)
            for candidate in chunk
        ]

        def finish(pair: tuple[Candidate, MaskPatch | Rle]) -> SegmentedObject | OmissionReason:
            found = _finish(*pair, self.options, segmenter.family.max_logit)
            return found if isinstance(found, OmissionReason) else _encode(found, formats, self.options)

        with call_context.stage("masks"):
            return await self._spread(finish, pairs)

    async def _spread(self, work: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """Does the work on each in few jobs: a job for each would cost more than some of the work."""

        def do(share: Sequence[S]) -> list[T]:
            return [work(item) for item in share]

        if len(items) == 1:
            return await self.context.off_loop(do, items)
        size = -(-len(items) // _JOBS) or 1
        shares = [items[start : start + size] for start in range(0, len(items), size)]
        done = await asyncio.gather(*(self.context.off_loop(do, share) for share in shares))
        return [result for share in done for result in share]


def fit_at_once(count: int, image: Picture) -> bool:
    """Whether so many masks of an image may be in hand together, however large they are."""
    return count * image.height * image.width <= PIXELS_AT_ONCE


def _needs(chunk: Sequence[Candidate], image_size: tuple[int, int], threshold: float) -> list[int]:
    """About how many pixels the part of the image has that each mask is in, or more; run lengths take next to none."""
    height, width = image_size
    needs = []
    for candidate in chunk:
        if not isinstance(candidate.mask, LowResMask):
            needs.append(0)
            continue
        inside = candidate.mask.logits > threshold
        # Logits may be over the square around the image.
        share = np.prod([np.count_nonzero(inside.any(axis)) / inside.shape[1 - axis] for axis in (0, 1)])
        needs.append(min(height * width, int(share * max(height, width) ** 2)))
    return needs


def _finish(
    candidate: Candidate, mask: MaskPatch | Rle, options: Options, max_logit: float
) -> SegmentedObject | OmissionReason:
    """Cleans a mask and measures it, or says why it is left out."""
    rle, box, area = clean_and_measure(mask, options)
    if box is None:
        return OmissionReason.EMPTY
    if area < options.min_area:
        return OmissionReason.BELOW_MIN_AREA
    logits = candidate.mask.logits
    return SegmentedObject(
        prompt_index=candidate.prompt_index,
        label=candidate.label,
        detection_score=candidate.detection_score,
        predicted_iou=candidate.predicted_iou,
        stability_score=candidate.stability_score,
        prompt_box=candidate.prompt_box,
        box=box,
        area=area,
        mask=rle,
        logits=masks.low_res(logits, max_logit) if options.return_logits and logits is not None else None,
    )


def clean_and_measure(mask: MaskPatch | Rle, options: Options) -> tuple[Rle, Box | None, int]:
    """The mask without small holes and parts, its tight box and its area; no box when it is empty."""
    holes, parts = options.max_hole_area, options.min_part_area
    if isinstance(mask, Rle):
        if holes < 1 and parts < 2:
            return mask, masks.tight_box(mask), masks.area(mask)
        mask = masks.from_rle(mask)
    tight = masks.clean(mask, holes, parts).tightened()
    area = int(np.count_nonzero(tight.inside))
    return masks.to_rle(tight), tight.box if area else None, area


def _encode(found: SegmentedObject, formats: Sequence[MaskFormat], options: Options) -> SegmentedObject:
    return replace(found, encoded=tuple(masks.encode(found.mask, form, options) for form in formats))
