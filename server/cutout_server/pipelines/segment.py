"""One request from picture and prompts to objects: embed, propose, make masks, select, encode."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import cv2
import numpy as np
from cutout_common import masks as codec

from cutout_server import calls
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import masks
from cutout_server.imaging.overlays import draw_overlay
from cutout_server.models.base import Embedding, MaskQuery, Task
from cutout_server.pipelines import proposals
from cutout_server.pipelines.geometry import fit
from cutout_server.pipelines.pictures import Pictures
from cutout_server.pipelines.proposals import Found, Proposal, Workplace
from cutout_server.pipelines.selection import Omissions, needs_all, select
from cutout_server.pools.placement import Pools, Seat
from cutout_server.types import (
    LOW_RES,
    BoolMask,
    EncodedOverlay,
    EverythingRequest,
    ImageSource,
    Logits,
    OmissionReason,
    Options,
    Picture,
    PngMask,
    PromptsRequest,
    SegmentedObject,
    SegmentRequest,
    TextRequest,
)

T = TypeVar("T")

# Full-size masks in hand at once, in pixels: 16 of a 2-megapixel picture, one of a 100-megapixel one.
PIXELS_AT_ONCE = 32_000_000

NMS_IOU = {PromptsRequest: 1.0, TextRequest: 0.7, EverythingRequest: 0.7}


@dataclass(frozen=True)
class Warm:
    """A picture whose embedding is kept at hand by whoever holds this."""

    picture: Picture
    segmenter: ModelSpec
    embedding: Embedding
    device: str


class Run:
    """A request at work. Its objects can be taken once."""

    def __init__(
        self,
        request: SegmentRequest,
        picture: Picture,
        place: Workplace | None,
        found: Sequence[Found],
        models: tuple[str, ...],
        executor: Executor,
    ) -> None:
        self.picture = picture
        self.models = models
        self.omissions = Omissions()
        self._request = request
        self._options: Options = request.options
        self._place = place
        self._found = found
        self._executor = executor
        self._taken: list[SegmentedObject] = []

    async def objects(self) -> AsyncIterator[SegmentedObject]:
        """The objects with their masks encoded; each as soon as nothing later can change it."""
        if self._place is None:
            return
        nms_iou = NMS_IOU[type(self._request)] if self._options.nms_iou is None else self._options.nms_iou
        if isinstance(self._request, PromptsRequest) and not needs_all(self._options, nms_iou, len(self._found)):
            async for found in self._made(self._place):
                yield await self._encoded(found)
            return
        made = [found async for found in self._made(self._place)]
        if not isinstance(self._request, PromptsRequest):
            made.sort(key=lambda found: -found.score)
        with calls.stage("masks"):
            selected = await self._off_loop(select, made, self._options, nms_iou, self.omissions)
        for found in selected:
            yield await self._encoded(found)

    async def overlay(self) -> EncodedOverlay | None:
        """The picture with the objects that were taken drawn on it, if the request asked for it."""
        if self._options.overlay is None:
            return None
        with calls.stage("masks"):
            return await self._off_loop(draw_overlay, self.picture, self._taken, self._options.overlay)

    async def silhouette(self) -> PngMask:
        """The union of the masks that were taken."""
        with calls.stage("masks"):
            return await self._off_loop(_silhouette, self.picture, self._taken)

    async def _made(self, place: Workplace) -> AsyncIterator[SegmentedObject]:
        size = self.picture.height * self.picture.width
        at_once = max(1, min(proposals.CHUNK, PIXELS_AT_ONCE // size))
        async for chunk in self._proposals(place):
            for start in range(0, len(chunk), at_once):
                part = chunk[start : start + at_once]
                for proposal, found in zip(part, await self._masks(place, part), strict=True):
                    if isinstance(found, OmissionReason):
                        self.omissions.add(found, proposal.prompt_index)
                    else:
                        yield found

    def _proposals(self, place: Workplace) -> AsyncIterator[list[Proposal]]:
        if isinstance(self._request, EverythingRequest):
            return proposals.everything(place, self._request, self.picture)
        options = self._options
        return proposals.from_prompts(place, self._found, multimask=options.multimask, strategy=options.strategy)

    async def _masks(self, place: Workplace, chunk: Sequence[Proposal]) -> Sequence[SegmentedObject | OmissionReason]:
        queries = [MaskQuery(place.embedding, proposal.logits, self._options.mask_threshold) for proposal in chunk]
        bitmaps = await place.seat.ask_all(place.segmenter, "masks", queries, stage="masks")
        with calls.stage("masks"):
            return await asyncio.gather(
                *(
                    self._off_loop(_finish, proposal, bitmap, self._options)
                    for proposal, bitmap in zip(chunk, bitmaps, strict=True)
                )
            )

    async def _encoded(self, found: SegmentedObject) -> SegmentedObject:
        self._taken.append(found)
        with calls.stage("masks"):
            return await self._off_loop(_encode, found, self._options)

    async def _off_loop(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *args))


class Segmentation:
    """Opens runs: seats the request, reads its picture, embeds it, finds its prompts."""

    def __init__(self, catalogue: Catalogue, pools: Pools, pictures: Pictures, executor: Executor) -> None:
        self._catalogue = catalogue
        self._pools = pools
        self._pictures = pictures
        self._executor = executor

    @asynccontextmanager
    async def open(self, request: SegmentRequest, warm: Warm | None = None) -> AsyncIterator[Run]:
        """Prepares a request up to the point from which its objects can be taken.

        A seat is taken before anything costs time, so that a full server says so at once. With `warm`, the request's
        own image and segmenter are not looked at.

        Raises:
            CutoutError: The request, its picture or its models cannot be used, or the devices are full.
        """
        task = Task.EVERYTHING if isinstance(request, EverythingRequest) else Task.SEGMENT
        segmenter = warm.segmenter if warm else self._catalogue.choose(request.segmenter, task, "segmenter")
        async with AsyncExitStack() as stack:
            seat = await stack.enter_async_context(self._pools.seat(segmenter))
            detector = None
            detector_seat = seat
            if isinstance(request, TextRequest):
                detector = self._catalogue.choose(request.detector, Task.DETECT, "detector")
                if seat.pool.device not in detector.devices:
                    detector_seat = await stack.enter_async_context(self._pools.seat(detector))
            if warm is not None:
                picture = warm.picture
            elif request.image is None:
                raise InvalidRequestError.of("image", "expected a picture, got none")
            else:
                picture = await stack.enter_async_context(self._pictures.open(request.image))
                self._pools.settle(seat, segmenter, picture)
            found: list[Found] = []
            if isinstance(request, PromptsRequest):
                found = [Found(index, prompt) for index, prompt in enumerate(fit(request, picture))]
            elif isinstance(request, TextRequest) and detector is not None:
                found = await proposals.detect(detector_seat, detector, request, picture)
            place = None
            if found or isinstance(request, EverythingRequest):  # Otherwise there is nothing to embed it for.
                place = Workplace(seat, segmenter, await self._embedding(seat, segmenter, picture, warm))
            models = (*([detector.name] if detector else []), *([segmenter.name] if place else []))
            yield Run(request, picture, place, found, models, self._executor)

    @asynccontextmanager
    async def warm_up(self, image: ImageSource, segmenter_name: str) -> AsyncIterator[Warm]:
        """Embeds a picture for many prompts to come, and keeps both for as long as the block lasts.

        Raises:
            CutoutError: See `open`.
        """
        segmenter = self._catalogue.choose(segmenter_name, Task.SEGMENT, "segmenter")
        async with self._pictures.open(image, for_session=True) as picture:
            async with self._pools.seat(segmenter) as seat:
                self._pools.settle(seat, segmenter, picture)
                warm = Warm(picture, segmenter, await seat.embed(segmenter, picture), seat.pool.device)
            yield warm

    @staticmethod
    async def _embedding(seat: Seat, segmenter: ModelSpec, picture: Picture, warm: Warm | None) -> Embedding:
        if warm is not None and warm.device == seat.pool.device:
            calls.current().stages.embedding_cached = True
            return warm.embedding
        return await seat.embed(segmenter, picture)


def _finish(proposal: Proposal, bitmap: BoolMask, options: Options) -> SegmentedObject | OmissionReason:
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
        logits=_low_res(proposal.logits) if options.return_logits else None,
    )


def _low_res(logits: Logits) -> Logits:
    """As callers get them: 256 x 256, in [-32, 32] as the official predictors give them."""
    if logits.shape != (LOW_RES, LOW_RES):
        logits = cv2.resize(logits, (LOW_RES, LOW_RES), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.clip(logits, -32.0, 32.0)


def _encode(found: SegmentedObject, options: Options) -> SegmentedObject:
    return replace(found, encoded=tuple(masks.encode(found.mask, form) for form in options.mask_formats))


def _silhouette(picture: Picture, objects: Sequence[SegmentedObject]) -> PngMask:
    nothing = masks.to_rle(np.zeros((picture.height, picture.width), np.bool_))
    union = masks.union([nothing, *(found.mask for found in objects)])
    return PngMask(codec.png_encode(masks.from_rle(union)))
