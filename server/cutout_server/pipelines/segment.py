"""The way of a request: plan it, reserve slots, open the image, ask its kind for candidates, run.

Which kind a request is of stands at the end: a new one is a file in `kinds` and a line in `_KINDS`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.images.pictures import Pictures
from cutout_server.pipelines.concepts import Concepts
from cutout_server.pipelines.context import Context, EmbeddedImage, Plan, Shared, Slots
from cutout_server.pipelines.kinds.analyze import Analyze
from cutout_server.pipelines.kinds.everything import Everything
from cutout_server.pipelines.kinds.kind import Kind
from cutout_server.pipelines.kinds.masks_kind import MasksKind
from cutout_server.pipelines.kinds.prompts import Prompts
from cutout_server.pipelines.kinds.text import Text
from cutout_server.pipelines.kinds.tiled import Tiled
from cutout_server.pipelines.response_cache import ResponseKey, digest
from cutout_server.pipelines.rewrite import Rewriter
from cutout_server.pipelines.run import Run
from cutout_server.pools.placement import Pools, Slot
from cutout_server.types import (
    AnalyzeRequest,
    EverythingRequest,
    ImageSource,
    MasksRequest,
    Picture,
    PromptsRequest,
    SegmentRequest,
    Task,
    TextRequest,
    UriImage,
)


class SegmentPipeline:
    """Prepares requests, up to the point from which their objects can be taken."""

    def __init__(
        self,
        catalogue: Catalogue,
        pools: Pools,
        pictures: Pictures,
        executor: Executor,
        rewriter: Rewriter | None,
        *,
        max_tiles: int,
    ) -> None:
        concepts = Concepts()
        pools.on_unload(concepts.forget)
        self._shared = Shared(catalogue, executor, rewriter, concepts, max_tiles)
        self._pools = pools
        self._pictures = pictures

    def check(self, request: SegmentRequest) -> None:
        """Makes sure that there are models for a request, before others do long work for it.

        Raises:
            FailedPreconditionError: There are none.
            InvalidRequestError: The request names one that there is not, or asks for what it cannot do.
        """
        kind_of(request).plan(self._shared, None)

    async def pin(self, request: SegmentRequest) -> tuple[SegmentRequest, ResponseKey]:
        """The request with its image fetched, and what its answer depends on.

        Raises:
            CutoutError: The request, its image or its models cannot be used.
        """
        plan = kind_of(request).plan(self._shared, None)
        image = _image_of(request)
        if isinstance(image, UriImage):
            async with self._pools.slot(plan.segmenter):  # Fetching takes long, so a full server says so before.
                image = await self._pictures.pin(image)
            request = request.with_image(image)
        identity = self._pictures.identity(image)
        sha256 = await asyncio.to_thread(digest, request.with_image(None), *identity)
        return request, ResponseKey(call_context.current().caller, plan.model_names, sha256)

    @asynccontextmanager
    async def open(self, request: SegmentRequest, embedded: EmbeddedImage | None = None) -> AsyncIterator[Run]:
        """Prepares a request.

        Slots are reserved before anything costs time, so that a full server says so at once.

        Args:
            request: What to do.
            embedded: The session's image, in a session; the request has no image and no segmenter of its own then.

        Raises:
            CutoutError: The request, its image or its models cannot be used, or the devices are full.
        """
        kind = kind_of(request)
        plan = kind.plan(self._shared, embedded.segmenter if embedded else None)
        async with AsyncExitStack() as stack:
            slots = await self._reserve(stack, plan)
            image = embedded.image if embedded else await self._open_image(stack, request, plan)
            self._pools.settle(slots.segmenter, image, plan.segmenter, *plan.beside.values())
            context = Context(self._shared, image, plan, slots, embedded)
            yield Run(context, request.options, await kind.propose(context))

    async def sha256(self, image: Picture) -> str:
        """The digest of an image's pixels, which is made while models work on them."""
        return await self._pictures.sha256(image)

    @asynccontextmanager
    async def embed(self, image: ImageSource, segmenter_name: str) -> AsyncIterator[EmbeddedImage]:
        """Embeds an image for many prompts to come, and keeps both for as long as the block lasts.

        Raises:
            CutoutError: See `open`.
        """
        segmenter = self._shared.catalogue.choose(segmenter_name, Task.SEGMENT, "segmenter")
        async with self._pictures.open(image, for_session=True) as picture:
            async with self._pools.slot(segmenter) as slot:
                self._pools.settle(slot, picture, segmenter)
                embedded = EmbeddedImage(picture, segmenter, await slot.embed(segmenter, picture), slot.pool.device)
            yield embedded

    async def _reserve(self, stack: AsyncExitStack, plan: Plan) -> Slots:
        """A slot for all models, and further ones for those that must not run on its device."""
        slot = await stack.enter_async_context(self._pools.slot(plan.segmenter))

        async def beside(spec: ModelSpec) -> Slot:
            if self._pools.may_hold(slot.pool, spec):
                return slot
            return await stack.enter_async_context(self._pools.slot(spec))

        return Slots(slot, {task: await beside(spec) for task, spec in plan.beside.items()})

    async def _open_image(self, stack: AsyncExitStack, request: SegmentRequest, plan: Plan) -> Picture:
        needs_pixels = plan.needs_pixels or request.options.overlay is not None
        is_embedded = None if needs_pixels else partial(self._pools.has_embedded, plan.segmenter)
        opened = self._pictures.open(_image_of(request), embedded=is_embedded)
        return await stack.enter_async_context(opened)


def _image_of(request: SegmentRequest) -> ImageSource:
    if request.image is None:
        raise InvalidRequestError.of("image", "expected a picture, got none")
    return request.image


def kind_of(request: SegmentRequest) -> Kind[SegmentRequest]:
    """The object that knows what a request means."""
    return _KINDS[type(request)](request)


def _in_tiles(kind: MasksKind[MasksRequest]) -> Kind[MasksRequest]:
    return Tiled(kind.request, kind) if kind.request.options.tiling else kind


_KINDS: dict[type[SegmentRequest], Callable[[Any], Kind[SegmentRequest]]] = {
    TextRequest: lambda request: _in_tiles(Text(request)),
    PromptsRequest: lambda request: _in_tiles(Prompts(request)),
    EverythingRequest: lambda request: _in_tiles(Everything(request)),
    AnalyzeRequest: lambda request: Analyze(request, kind_of(request.regions)),
}
