"""The masks of everything in an image: by a grid of points, or in the segmenter's own way.

The grid gives what `SamAutomaticMaskGenerator` and `SAM2AutomaticMaskGenerator` give, but masks at full size are few at
any time: they are measured where they are made, and kept as run lengths.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from math import isnan

import numpy as np

from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.imaging import masks
from cutout_server.imaging.nms import grid_nms
from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import ENCODE, FILTERED_MASKS, PROPOSE
from cutout_server.models.queries import FilteredMask, MaskFilter, PointQuery, ProposeQuery
from cutout_server.pipelines.candidates import CHUNK, Candidate, FinishedMask, LowResMask, in_chunks
from cutout_server.pipelines.context import Context, Omissions
from cutout_server.pipelines.finishing import clean_and_measure
from cutout_server.pipelines.grid import Crop, crops, cut_off, inner_boxes
from cutout_server.types import Box, EverythingRequest, OmissionReason, Options, Picture, Rle

# Points times pixels in one pass, which cannot be interrupted: 64 points of a 2-megapixel picture, one of a
# 128-megapixel one.
_PIXELS_PER_PASS = 128_000_000


@dataclass(frozen=True)
class _Find:
    """A mask in the picture's pixels, its tight box, and where it was found."""

    crop: Crop
    filtered: FilteredMask
    mask: Rle
    box: Box | None


async def in_its_own_way(
    context: Context, embedding: Embedding, request: EverythingRequest
) -> AsyncIterator[list[Candidate]]:
    """What the segmenter finds itself, without what it doubts or what a small change of threshold alters."""
    segmenter = context.plan.segmenter
    mask_filter = _mask_filter(request, segmenter)
    query = ProposeQuery(embedding, request.points_per_side)
    proposed = await context.slots.segmenter.ask(PROPOSE, segmenter, query)
    predicted_iou: list[float] = proposed.predicted_iou.tolist()
    likely = [
        (logits, iou)
        for logits, iou in zip(proposed.logits, predicted_iou, strict=True)
        if iou >= mask_filter.predicted_iou
    ]
    scores = await asyncio.to_thread(
        lambda: [masks.stability_score(logits, mask_filter.mask_threshold) for logits, _ in likely]
    )
    _count_left_out(
        mask_filter,
        [iou for iou in predicted_iou if not iou >= mask_filter.predicted_iou],
        [score for score in scores if not score >= mask_filter.stability_score],
        context.omissions,
    )
    yield [
        Candidate(LowResMask(embedding, logits), 0, iou, stability_score=score)
        for (logits, iou), score in zip(likely, scores, strict=True)
        if score >= mask_filter.stability_score
    ]


async def by_grid(
    context: Context, embedding: Embedding, request: EverythingRequest
) -> AsyncIterator[Sequence[Candidate]]:
    """What a grid of points on the image, and on crops of it, finds."""
    image, slot = context.image, context.slots.segmenter
    finds: list[_Find] = []
    for crop in crops(image.height, image.width, request.crop_layers, request.crop_overlap):
        embedded = embedding
        if crop.layer:
            embedded = await slot.ask(ENCODE, context.plan.segmenter, crop.of(image.pixels))
        filtered = await _filtered(context, embedded, request, crop)
        with call_context.stage("masks"):
            finds += await asyncio.to_thread(_in_crop, filtered, crop, request, image, context.omissions)
    with call_context.stage("masks"):
        finds = await asyncio.to_thread(_in_picture, finds, request, context.omissions)
    async for chunk in in_chunks([_candidate(find) for find in finds]):
        yield chunk


def _candidate(find: _Find) -> Candidate:
    filtered = find.filtered
    return Candidate(
        FinishedMask(find.mask, filtered.logits), 0, filtered.predicted_iou, stability_score=filtered.stability_score
    )


async def _filtered(
    context: Context, embedding: Embedding, request: EverythingRequest, crop: Crop
) -> list[FilteredMask]:
    """The masks of the crop's points that pass the thresholds, in the crop's pixels."""
    segmenter = context.plan.segmenter
    mask_filter = _mask_filter(request, segmenter)
    points = crop.points(request.points_per_side // request.crop_points_downscale**crop.layer)
    at_once = max(1, min(CHUNK, _PIXELS_PER_PASS // crop.area))
    filtered: list[FilteredMask] = []
    for start in range(0, len(points), at_once):
        queries = [
            PointQuery(embedding, (x, y), mask_filter, request.options.return_logits)
            for x, y in points[start : start + at_once].tolist()
        ]
        for answer in await context.slots.segmenter.ask_all(FILTERED_MASKS, segmenter, queries):
            filtered += answer.kept
            _count_left_out(mask_filter, answer.doubted, answer.unstable, context.omissions)
    return filtered


def _count_left_out(
    mask_filter: MaskFilter, doubted: Sequence[float], unstable: Sequence[float], omissions: Omissions
) -> None:
    """Counts what a mask filter kept back; a mask without any stability score is empty."""
    scores = [score for score in unstable if not isnan(score)]
    omissions.below(OmissionReason.BELOW_PREDICTED_IOU, mask_filter.predicted_iou, doubted)
    omissions.below(OmissionReason.BELOW_STABILITY, mask_filter.stability_score, scores)
    omissions.add(OmissionReason.EMPTY, 0, len(unstable) - len(scores))


def _in_crop(
    filtered: Sequence[FilteredMask], crop: Crop, request: EverythingRequest, picture: Picture, omissions: Omissions
) -> list[_Find]:
    """Without what the crop may have cut off, and without duplicates; in the picture's pixels."""
    boxes = inner_boxes([masks.tight_box(passed.mask) for passed in filtered])
    whole = np.flatnonzero(~cut_off(boxes, crop, picture.height, picture.width)).tolist()
    kept = grid_nms(boxes[whole], [filtered[i].predicted_iou for i in whole], request.box_nms_iou)
    omissions.add(OmissionReason.CUT_OFF, 0, len(filtered) - len(whole))
    omissions.add(OmissionReason.DUPLICATE, 0, len(whole) - len(kept))
    finds = []
    for passed in [filtered[whole[i]] for i in kept]:
        mask = passed.mask
        if crop.layer:
            mask = masks.paste(mask, crop.left, crop.top, picture.height, picture.width)
        finds.append(_Find(crop, passed, mask, masks.tight_box(mask)))
    return finds


def _in_picture(finds: Sequence[_Find], request: EverythingRequest, omissions: Omissions) -> list[_Find]:
    """Without duplicates between crops, of which the smaller one's stays, and cleaned."""
    options = request.options
    if request.crop_layers:
        smallness = [1 / find.crop.area for find in finds]
        finds = _without_duplicates(finds, smallness, request.crop_nms_iou, omissions)
    if options.max_hole_area or options.min_part_area > 1:
        cleaned = [_cleaned(find, options) for find in finds]
        # Cleaning may make two masks one: the one that needed none stays.
        untouched = [float(new.mask.counts == old.mask.counts) for new, old in zip(cleaned, finds, strict=True)]
        finds = _without_duplicates(cleaned, untouched, max(request.box_nms_iou, request.crop_nms_iou), omissions)
    return list(finds)


def _cleaned(find: _Find, options: Options) -> _Find:
    mask, box, _ = clean_and_measure(find.mask, options)
    return replace(find, mask=mask, box=box)


def _without_duplicates(
    finds: Sequence[_Find], scores: Sequence[float], iou_threshold: float, omissions: Omissions
) -> list[_Find]:
    kept = grid_nms(inner_boxes([find.box for find in finds]), scores, iou_threshold)
    omissions.add(OmissionReason.DUPLICATE, 0, len(finds) - len(kept))
    return [finds[i] for i in kept]


def _mask_filter(request: EverythingRequest, segmenter: ModelSpec) -> MaskFilter:
    family, iou, stability = segmenter.family, request.predicted_iou_threshold, request.stability_threshold
    return MaskFilter(
        mask_threshold=request.options.mask_threshold,
        predicted_iou=family.predicted_iou_threshold if iou is None else iou,
        stability_score=family.stability_threshold if stability is None else stability,
        stability_offset=request.stability_offset,
    )
