"""A prepared request at work: proposals to masks, selection, concepts, encoding."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
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
from cutout_server.models.operations import MASKS
from cutout_server.pipelines.concepts import Describer
from cutout_server.pipelines.proposals import CHUNK, Proposal
from cutout_server.pipelines.selection import Omissions, needs_all, select
from cutout_server.pools.placement import Seat
from cutout_server.types import (
    ConceptScore,
    EncodedOverlay,
    MaskFormat,
    MaskPatch,
    OmissionReason,
    Options,
    Picture,
    PngMask,
    Rewriting,
    SegmentedObject,
)

S = TypeVar("S")
T = TypeVar("T")

# Of masks in hand at once, pixels of the parts of the picture that they are in; a larger mask is alone.
PIXELS_AT_ONCE = 32_000_000
_JOBS = 4  # Enough for the cores that decode pictures beside, few enough to cost nothing.


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

    async def objects(self) -> AsyncGenerator[SegmentedObject]:
        """The objects with their masks encoded; each as soon as nothing later can change it."""
        plan = self.plan
        compared = needs_all(plan.options, plan.nms_iou, plan.most)
        if plan.by_prompt and not compared and plan.describer is None:
            async for chunk in self._made(plan.options.mask_formats):
                self._taken += chunk
                for found in chunk:
                    yield found
            return
        made = [found async for chunk in self._made() for found in chunk]
        if not plan.by_prompt:
            made.sort(key=lambda found: -found.score)
        with calls.stage("masks"):
            selected = await self._off_loop(select, made, plan.options, plan.nms_iou, self.plan.omissions)
        described = await self._described(selected)
        at_once = max(1, min(CHUNK, 8 * PIXELS_AT_ONCE // self._pixels))
        for start in range(0, len(described), at_once):
            encoded = await self._encoded(described[start : start + at_once], plan.options.mask_formats)
            self._taken += encoded
            for found in encoded:
                yield found

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

    @property
    def _pixels(self) -> int:
        return self.plan.picture.height * self.plan.picture.width

    async def _made(self, formats: Sequence[MaskFormat] = ()) -> AsyncIterator[Sequence[SegmentedObject]]:
        """The masks, cleaned and measured, and encoded where nothing remains to be done before."""
        async for chunk in self.plan.proposals:
            if isinstance(chunk, SegmentedObject):
                yield await self._encoded([chunk], formats)
                continue
            for part in await self._parts(chunk):
                made = list(zip(part, await self._masks(part, formats), strict=True))
                for proposal, found in made:
                    if isinstance(found, OmissionReason):
                        self.plan.omissions.add(found, proposal.prompt_index)
                yield [found for _, found in made if isinstance(found, SegmentedObject)]

    async def _parts(self, chunk: list[Proposal]) -> list[list[Proposal]]:
        """Cuts a chunk where its masks would take too much memory together."""
        if len(chunk) * self._pixels <= PIXELS_AT_ONCE:
            return [chunk]
        picture, threshold = self.plan.picture, self.plan.options.mask_threshold
        with calls.stage("masks"):
            needs = await self._off_loop(_needs, chunk, (picture.height, picture.width), threshold)
        parts: list[list[Proposal]] = []
        room = 0
        for proposal, need in zip(chunk, needs, strict=True):
            if not parts or need > room:
                parts.append([])
                room = PIXELS_AT_ONCE
            parts[-1].append(proposal)
            room -= need
        return parts

    async def _masks(
        self, chunk: Sequence[Proposal], formats: Sequence[MaskFormat]
    ) -> Sequence[SegmentedObject | OmissionReason]:
        plan = self.plan
        queries = [MaskQuery(each.embedding, each.logits, plan.options.mask_threshold) for each in chunk]
        patches = await plan.seat.ask_all(MASKS, plan.segmenter, queries)

        def finish(pair: tuple[Proposal, MaskPatch]) -> SegmentedObject | OmissionReason:
            found = _finish(*pair, plan.options, plan.segmenter.family.max_logit)
            return found if isinstance(found, OmissionReason) else _encode(found, formats)

        with calls.stage("masks"):
            return await self._each(finish, list(zip(chunk, patches, strict=True)))

    async def _described(self, objects: Sequence[SegmentedObject]) -> Sequence[SegmentedObject]:
        if self.plan.describer is None:
            return objects
        crops = [masks.crop(self.plan.picture.pixels, found.box) for found in objects]
        described = await self.plan.describer.describe(crops)
        return [replace(found, concepts=concepts) for found, concepts in zip(objects, described, strict=True)]

    async def _encoded(
        self, objects: Sequence[SegmentedObject], formats: Sequence[MaskFormat]
    ) -> Sequence[SegmentedObject]:
        if not formats:
            return objects
        with calls.stage("masks"):
            return await self._each(partial(_encode, formats=formats), objects)

    async def _each(self, work: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """Does the work on each in few jobs: a job for each would cost more than some of the work."""

        def do(share: Sequence[S]) -> list[T]:
            return [work(item) for item in share]

        if len(items) == 1:
            return await self._off_loop(do, items)
        size = -(-len(items) // _JOBS) or 1
        shares = [items[start : start + size] for start in range(0, len(items), size)]
        done = await asyncio.gather(*(self._off_loop(do, share) for share in shares))
        return [each for share in done for each in share]

    async def _off_loop(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *args))


def _needs(chunk: Sequence[Proposal], image_size: tuple[int, int], threshold: float) -> list[int]:
    """About how many pixels the part of the picture has that each mask is in, or more."""
    height, width = image_size
    needs = []
    for proposal in chunk:
        inside = proposal.logits > threshold
        # Logits may be over the square around the picture.
        share = np.prod([np.count_nonzero(inside.any(axis)) / inside.shape[1 - axis] for axis in (0, 1)])
        needs.append(min(height * width, int(share * max(height, width) ** 2)))
    return needs


def _finish(
    proposal: Proposal, patch: MaskPatch, options: Options, max_logit: float
) -> SegmentedObject | OmissionReason:
    """Cleans a mask and measures it, or says why it is left out."""
    tight = masks.clean(patch, options.max_hole_area, options.min_part_area).tightened()
    area = int(np.count_nonzero(tight.inside))
    if not area:
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
        box=tight.box,
        area=area,
        mask=masks.to_rle(tight),
        logits=masks.low_res(proposal.logits, max_logit) if options.return_logits else None,
    )


def _encode(found: SegmentedObject, formats: Sequence[MaskFormat]) -> SegmentedObject:
    return replace(found, encoded=tuple(masks.encode(found.mask, form) for form in formats))


def _silhouette(picture: Picture, objects: Sequence[SegmentedObject]) -> PngMask:
    nothing = masks.to_rle(MaskPatch(picture.height, picture.width, 0, 0, np.zeros((0, 0), np.bool_)))
    union = masks.union([nothing, *(found.mask for found in objects)])
    return PngMask(codec.png_encode(codec.rle_decode(union.height, union.width, union.counts)))
