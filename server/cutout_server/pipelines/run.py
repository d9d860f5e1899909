"""A prepared request at work: candidates to objects, one after the other or all together."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import numpy as np
from cutout_common import masks as codec

from cutout_server import call_context
from cutout_server.imaging import masks
from cutout_server.imaging.overlays import draw_overlay
from cutout_server.pipelines.candidates import CHUNK, Proposals
from cutout_server.pipelines.context import Context
from cutout_server.pipelines.finishing import PIXELS_AT_ONCE, Finisher
from cutout_server.types import (
    AnswerFacts,
    EncodedOverlay,
    MaskPatch,
    Options,
    Picture,
    PngMask,
    SegmentedObject,
    Strategy,
)


class Run:
    """A request at work. Its objects can be taken once.

    Attributes:
        image: What it is about.
    """

    def __init__(self, context: Context, options: Options, proposals: Proposals) -> None:
        self.image = context.image
        self._context = context
        self._options = options
        self._proposals = proposals
        self._finisher = Finisher(context, options)
        self._taken: list[SegmentedObject] = []

    def facts(self) -> AnswerFacts:
        """What the answer says beside its objects; what was left out is known when all of them were taken."""
        proposals = self._proposals
        return AnswerFacts(
            self.image, self._context.omissions.all(), proposals.models, proposals.concepts, proposals.rewriting
        )

    async def objects(self) -> AsyncGenerator[SegmentedObject]:
        """The objects with their masks encoded; each as soon as nothing later can change it."""
        finisher, options, candidates = self._finisher, self._options, self._proposals.candidates
        if self._context.plan.keeps_order and not self._waits_for_all():
            async for chunk in finisher.objects(candidates, options.mask_formats):
                self._taken += chunk
                for found in chunk:
                    yield found
            return
        described = await self._described(await finisher.selected(candidates))
        at_once = max(1, min(CHUNK, 8 * PIXELS_AT_ONCE // (self.image.height * self.image.width)))
        for start in range(0, len(described), at_once):
            encoded = await finisher.encoded(described[start : start + at_once], options.mask_formats)
            self._taken += encoded
            for found in encoded:
                yield found

    def _waits_for_all(self) -> bool:
        """Whether no object can leave before every mask is made."""
        options, proposals = self._options, self._proposals
        compared = options.strategy in {Strategy.LARGEST, Strategy.MERGE} or self._finisher.nms_iou < 1
        return compared or proposals.most > options.max_objects or proposals.describer is not None

    async def overlay(self) -> EncodedOverlay | None:
        """The image with the objects that were taken drawn on it, or without, if the request asked for it."""
        form = self._options.overlay
        if form is None:
            return None
        drawn = self._taken if self._options.draw else ()
        with call_context.stage("masks"):
            return await self._context.off_loop(draw_overlay, self.image, drawn, form)

    async def silhouette(self) -> PngMask:
        """The union of the masks that were taken."""
        with call_context.stage("masks"):
            return await self._context.off_loop(_silhouette, self.image, self._taken)

    async def _described(self, objects: Sequence[SegmentedObject]) -> Sequence[SegmentedObject]:
        if self._proposals.describer is None:
            return objects
        crops = [masks.crop(self.image.pixels, found.box) for found in objects]
        described = await self._proposals.describer.describe(crops)
        return [replace(found, concepts=concepts) for found, concepts in zip(objects, described, strict=True)]


def _silhouette(image: Picture, objects: Sequence[SegmentedObject]) -> PngMask:
    nothing = masks.to_rle(MaskPatch(image.height, image.width, 0, 0, np.zeros((0, 0), np.bool_)))
    union = masks.union([nothing, *(found.mask for found in objects)])
    return PngMask(codec.png_encode(codec.rle_decode(union.height, union.width, union.counts)))
