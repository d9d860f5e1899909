"""A prepared request at work: proposals to masks, selection, concepts, encoding."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from cutout_common import masks as codec

from cutout_server import calls
from cutout_server.catalogue import ModelSpec
from cutout_server.imaging import masks
from cutout_server.imaging.overlays import draw_overlay
from cutout_server.models.base import MaskQuery
from cutout_server.pipelines.concepts import Describer
from cutout_server.pipelines.proposals import CHUNK, Proposal
from cutout_server.pipelines.selection import Omissions, needs_all, select
from cutout_server.pools.placement import Seat
from cutout_server.types import (
    BoolMask,
    ConceptScore,
    EncodedOverlay,
    OmissionReason,
    Options,
    Picture,
    PngMask,
    Rewriting,
    SegmentedObject,
)

T = TypeVar("T")

# Full-size masks in hand at once, in pixels: 16 of a 2-megapixel picture, one of a 100-megapixel one.
PIXELS_AT_ONCE = 32_000_000


@dataclass(frozen=True)
class Plan:
    """What a request came to before its first mask.

    Attributes:
        picture: What it is about.
        options: What to make of the masks.
        nms_iou: Masks that overlap a better one of the same label by more are left out; 1 keeps all.
        by_prompt: The objects keep their prompts' order and may leave as they are made; otherwise the best come first.
        most: How many objects there can be, as far as is known.
        seat: Where the masks are made.
        segmenter: What makes them.
        proposals: The masks at low resolution, chunk by chunk; can be taken once. Or objects that need no more work.
        omissions: What was left out already.
        models: Names of those that work on it, in their order.
        concepts: What the whole picture shows.
        describer: Says what each object shows; None when that was not asked.
        rewriting: What became of the phrases; None when they were not to be rewritten.
    """

    picture: Picture
    options: Options
    nms_iou: float
    by_prompt: bool
    most: int
    seat: Seat
    segmenter: ModelSpec
    proposals: AsyncIterator[list[Proposal]] | AsyncIterator[SegmentedObject]
    omissions: Omissions
    models: tuple[str, ...]
    concepts: tuple[ConceptScore, ...] = ()
    describer: Describer | None = None
    rewriting: Rewriting | None = None


class Run:
    """A request at work. Its objects can be taken once."""

    def __init__(self, plan: Plan, executor: Executor) -> None:
        self.plan = plan
        self._executor = executor
        self._taken: list[SegmentedObject] = []

    async def objects(self) -> AsyncIterator[SegmentedObject]:
        """The objects with their masks encoded; each as soon as nothing later can change it."""
        plan = self.plan
        compared = needs_all(plan.options, plan.nms_iou, plan.most)
        if plan.by_prompt and not compared and plan.describer is None:
            async for found in self._made():
                yield await self._encoded(found)
            return
        made = [found async for found in self._made()]
        if not plan.by_prompt:
            made.sort(key=lambda found: -found.score)
        with calls.stage("masks"):
            selected = await self._off_loop(select, made, plan.options, plan.nms_iou, self.plan.omissions)
        for found in await self._described(selected):
            yield await self._encoded(found)

    async def overlay(self) -> EncodedOverlay | None:
        """The picture with the objects that were taken drawn on it, if the request asked for it."""
        form = self.plan.options.overlay
        if form is None:
            return None
        with calls.stage("masks"):
            return await self._off_loop(draw_overlay, self.plan.picture, self._taken, form)

    async def silhouette(self) -> PngMask:
        """The union of the masks that were taken."""
        with calls.stage("masks"):
            return await self._off_loop(_silhouette, self.plan.picture, self._taken)

    async def _made(self) -> AsyncIterator[SegmentedObject]:
        size = self.plan.picture.height * self.plan.picture.width
        at_once = max(1, min(CHUNK, PIXELS_AT_ONCE // size))
        async for chunk in self.plan.proposals:
            if isinstance(chunk, SegmentedObject):
                yield chunk
                continue
            for start in range(0, len(chunk), at_once):
                part = chunk[start : start + at_once]
                for proposal, found in zip(part, await self._masks(part), strict=True):
                    if isinstance(found, OmissionReason):
                        self.plan.omissions.add(found, proposal.prompt_index)
                    else:
                        yield found

    async def _masks(self, chunk: Sequence[Proposal]) -> Sequence[SegmentedObject | OmissionReason]:
        plan = self.plan
        queries = [MaskQuery(each.embedding, each.logits, plan.options.mask_threshold) for each in chunk]
        bitmaps = await plan.seat.ask_all(plan.segmenter, "masks", queries, stage="masks")
        with calls.stage("masks"):
            return await asyncio.gather(
                *(
                    self._off_loop(_finish, proposal, bitmap, plan.options, plan.segmenter.family.max_logit)
                    for proposal, bitmap in zip(chunk, bitmaps, strict=True)
                )
            )

    async def _described(self, objects: Sequence[SegmentedObject]) -> Sequence[SegmentedObject]:
        if self.plan.describer is None:
            return objects
        crops = [masks.crop(self.plan.picture.pixels, found.box) for found in objects]
        described = await self.plan.describer.describe(crops)
        return [replace(found, concepts=concepts) for found, concepts in zip(objects, described, strict=True)]

    async def _encoded(self, found: SegmentedObject) -> SegmentedObject:
        self._taken.append(found)
        with calls.stage("masks"):
            return await self._off_loop(_encode, found, self.plan.options)

    async def _off_loop(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *args))


def _finish(
    proposal: Proposal, bitmap: BoolMask, options: Options, max_logit: float
) -> SegmentedObject | OmissionReason:
    """Cleans a full-size mask and measures it, or says why it is left out."""
    cleaned = masks.clean(bitmap, options.max_hole_area, options.min_part_area)
    mask = masks.to_rle(cleaned)
    area, box = masks.area(mask), masks.tight_box(mask)
    if box is None:
        return OmissionReason.EMPTY
    if area < options.min_area:
        return OmissionReason.BELOW_MIN_AREA
    return SegmentedObject(
        prompt_index=proposal.prompt_index,
        label=proposal.label,
        detection_score=proposal.detection_score,
        predicted_iou=proposal.predicted_iou,
        stability_score=proposal.stability_score,
        prompt_box=proposal.prompt_box,
        box=box,
        area=area,
        mask=mask,
        logits=masks.low_res(proposal.logits, max_logit) if options.return_logits else None,
    )


def _encode(found: SegmentedObject, options: Options) -> SegmentedObject:
    return replace(found, encoded=tuple(masks.encode(found.mask, form) for form in options.mask_formats))


def _silhouette(picture: Picture, objects: Sequence[SegmentedObject]) -> PngMask:
    nothing = masks.to_rle(np.zeros((picture.height, picture.width), np.bool_))
    union = masks.union([nothing, *(found.mask for found in objects)])
    return PngMask(codec.png_encode(masks.from_rle(union)))
