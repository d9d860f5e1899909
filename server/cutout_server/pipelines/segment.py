"""Prepares a request: seats it, reads its picture, embeds it, finds its prompts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from cutout_server import calls
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.tiles import Tile
from cutout_server.lacking import no_exemplars, no_rewriter
from cutout_server.models.base import Embedding, Task
from cutout_server.pipelines import everything, proposals
from cutout_server.pipelines.answers import AnswerKey, digest
from cutout_server.pipelines.concepts import Concepts
from cutout_server.pipelines.geometry import fit
from cutout_server.pipelines.pictures import Pictures
from cutout_server.pipelines.proposals import Found, Proposal, Workplace
from cutout_server.pipelines.rewrite import Rewriter
from cutout_server.pipelines.run import Plan, Run
from cutout_server.pipelines.selection import Omissions
from cutout_server.pipelines.tiles import Views, WantedMasks, views_of
from cutout_server.pipelines.words import as_written, check_detector, check_text_segmenter, detect, distinct, find
from cutout_server.pools.placement import Pools, Seat
from cutout_server.types import (
    AnalyzeRequest,
    EverythingRequest,
    ImageSource,
    Picture,
    PromptsRequest,
    Rewriting,
    SegmentedObject,
    SegmentRequest,
    Strategy,
    TextRequest,
    UriImage,
)


@dataclass(frozen=True)
class Warm:
    """A picture whose embedding is kept at hand by whoever holds this."""

    picture: Picture
    segmenter: ModelSpec
    embedding: Embedding
    device: str


@dataclass(frozen=True)
class Cast:
    """Which models a request needs."""

    segmenter: ModelSpec
    detector: ModelSpec | None = None
    classifier: ModelSpec | None = None


@dataclass(frozen=True)
class Seats:
    """Where they run; one and the same seat as far as their devices allow."""

    segmenter: Seat
    detector: Seat
    classifier: Seat


class Segmentation:
    """Opens runs."""

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
        self._catalogue = catalogue
        self._pools = pools
        self._pictures = pictures
        self._executor = executor
        self._rewriter = rewriter
        self._max_tiles = max_tiles
        self._concepts = Concepts()
        pools.on_unload(self._concepts.forget)

    def check(self, request: SegmentRequest) -> None:
        """Makes sure that there are models for a request, before others do long work for it.

        Raises:
            FailedPreconditionError: There are none.
            InvalidRequestError: The request names one that there is not, or asks for what it cannot do.
        """
        self._cast(request, request.regions if isinstance(request, AnalyzeRequest) else request, None)

    async def pin(self, request: SegmentRequest) -> tuple[SegmentRequest, AnswerKey]:
        """The request with its picture fetched, and what its answer depends on.

        Raises:
            CutoutError: The request, its picture or its models cannot be used.
        """
        wanted = request.regions if isinstance(request, AnalyzeRequest) else request
        cast = self._cast(request, wanted, None)
        if wanted.image is None:
            raise InvalidRequestError.of("image", "expected a picture, got none")
        image = wanted.image
        if isinstance(image, UriImage):  # Fetching takes long, so a full server says so before.
            async with self._pools.seat(cast.segmenter):
                fetched = await self._pictures.pin(image)
            pinned, identity = _with_image(request, fetched), self._pictures.identity(fetched)
        else:
            pinned, identity = request, self._pictures.identity(image)
        sha256 = await asyncio.to_thread(digest, _with_image(request, None), *identity)
        names = (spec.name for spec in (cast.segmenter, cast.detector, cast.classifier) if spec)
        return pinned, AnswerKey(calls.current().caller, tuple(names), sha256)

    @asynccontextmanager
    async def open(self, request: SegmentRequest, warm: Warm | None = None) -> AsyncIterator[Run]:
        """Prepares a request up to the point from which its objects can be taken.

        A seat is taken before anything costs time, so that a full server says so at once. With `warm`, the request's
        own image and segmenter are not looked at.

        Raises:
            CutoutError: The request, its picture or its models cannot be used, or the devices are full.
        """
        wanted = request.regions if isinstance(request, AnalyzeRequest) else request
        cast = self._cast(request, wanted, warm)
        async with AsyncExitStack() as stack:
            seat = await stack.enter_async_context(self._pools.seat(cast.segmenter))
            beside = [await self._beside(stack, seat, spec) for spec in (cast.detector, cast.classifier)]
            seats = Seats(seat, *beside)
            if warm is not None:
                picture = warm.picture
            elif wanted.image is None:
                raise InvalidRequestError.of("image", "expected a picture, got none")
            else:
                has = (
                    partial(self._pools.has_embedded, cast.segmenter) if _needs_embedding_alone(request, cast) else None
                )
                picture = await stack.enter_async_context(self._pictures.open(wanted.image, embedded=has))
            self._pools.settle(
                seat, picture, cast.segmenter, *(spec for spec in (cast.detector, cast.classifier) if spec)
            )
            views = views_of(wanted, picture, self._max_tiles)
            if len(views) > 1:
                plan = await self._tiled(wanted, cast, seats, picture, views, warm)
            else:
                plan = await self._plan(wanted, cast, seats, picture, warm, Omissions())
            if isinstance(request, AnalyzeRequest) and cast.classifier is not None:
                describer = await self._concepts.describer(seats.classifier, cast.classifier, request)
                concepts = (await describer.describe([picture.pixels]))[0]
                models = (*plan.models, cast.classifier.name)
                plan = replace(plan, describer=describer, concepts=concepts, models=models)
            yield Run(plan, self._executor)

    async def sha256(self, picture: Picture) -> str:
        """The digest of a picture's pixels, which is made while models work on them."""
        return await self._pictures.sha256(picture)

    @asynccontextmanager
    async def warm_up(self, image: ImageSource, segmenter_name: str) -> AsyncIterator[Warm]:
        """Embeds a picture for many prompts to come, and keeps both for as long as the block lasts.

        Raises:
            CutoutError: See `open`.
        """
        segmenter = self._catalogue.choose(segmenter_name, Task.SEGMENT, "segmenter")
        async with self._pictures.open(image, for_session=True) as picture:
            async with self._pools.seat(segmenter) as seat:
                self._pools.settle(seat, picture, segmenter)
                warm = Warm(picture, segmenter, await seat.embed(segmenter, picture), seat.pool.device)
            yield warm

    def _cast(self, request: SegmentRequest, wanted: WantedMasks, warm: Warm | None) -> Cast:
        choose = self._catalogue.choose
        if isinstance(wanted, TextRequest):
            if wanted.rewrite and self._rewriter is None:
                raise no_rewriter()
            if wanted.exemplars and not any(spec.family.exemplars for spec in self._catalogue.specs.values()):
                raise no_exemplars()
            named = warm.segmenter.name if warm else wanted.segmenter
            direct = self._catalogue.find(named, Task.SEGMENT_TEXT)
            detects = wanted.detector or (not named and self._catalogue.find("", Task.DETECT))
            if direct and not detects:
                check_text_segmenter(wanted, direct)
                return Cast(direct)
            detector = choose(wanted.detector, Task.DETECT, "detector")
            check_detector(wanted, detector)
            return Cast(warm.segmenter if warm else choose(named, Task.SEGMENT, "segmenter"), detector)
        task = Task.EVERYTHING if isinstance(wanted, EverythingRequest) else Task.SEGMENT
        segmenter = warm.segmenter if warm else choose(wanted.segmenter, task, "segmenter")
        if isinstance(wanted, EverythingRequest):
            everything.check_everything(wanted, segmenter)
        if isinstance(request, AnalyzeRequest):
            return Cast(segmenter, classifier=choose(request.classifier, Task.CLASSIFY, "classifier"))
        return Cast(segmenter)

    async def _beside(self, stack: AsyncExitStack, seat: Seat, spec: ModelSpec | None) -> Seat:
        """The same seat, or another one when a model must not run on its device."""
        if spec is None or seat.pool.device in spec.devices:
            return seat
        return await stack.enter_async_context(self._pools.seat(spec))

    async def _plan(
        self,
        wanted: WantedMasks,
        cast: Cast,
        seats: Seats,
        picture: Picture,
        warm: Warm | None,
        omissions: Omissions,
    ) -> Plan:
        rewriting = None
        models = [cast.segmenter.name]
        found: list[Found] = []
        masks: list[Proposal] = []
        if isinstance(wanted, PromptsRequest):
            found = [Found(index, prompt) for index, prompt in enumerate(fit(wanted, picture))]
        elif isinstance(wanted, TextRequest):
            rewriting = await self._rewriting(wanted)
            sought = distinct(rewriting.phrases if rewriting else as_written(wanted.phrases), omissions)
            if cast.detector is None:
                embedding = await self._embedding(seats.segmenter, cast.segmenter, picture, warm)
                masks = await find(seats.segmenter, cast.segmenter, embedding, wanted, sought, picture, omissions)
            else:
                found = await detect(seats.detector, cast.detector, wanted, sought, picture, omissions)
                models = [cast.detector.name, *(models if found else [])]
        if found or isinstance(wanted, EverythingRequest):  # Otherwise there is nothing to embed it for.
            embedding = await self._embedding(seats.segmenter, cast.segmenter, picture, warm)
            place = Workplace(seats.segmenter, cast.segmenter, embedding)
            proposed: AsyncIterator[list[Proposal]] | AsyncIterator[SegmentedObject]
            if isinstance(wanted, EverythingRequest):
                if cast.segmenter.family.proposes:
                    proposed = everything.propose(place, wanted, omissions)
                else:
                    proposed = everything.by_grid(place, wanted, picture, omissions)
            else:
                options = wanted.options
                proposed = proposals.from_prompts(place, found, multimask=options.multimask, strategy=options.strategy)
        else:
            proposed = proposals.ready(masks)
        return Plan(
            picture=picture,
            options=wanted.options,
            nms_iou=_nms_iou(wanted, cast),
            by_prompt=isinstance(wanted, PromptsRequest),
            most=len(found) or len(masks),
            seat=seats.segmenter,
            segmenter=cast.segmenter,
            proposals=proposed,
            omissions=omissions,
            models=tuple(models),
            rewriting=rewriting,
        )

    async def _tiled(
        self,
        wanted: WantedMasks,
        cast: Cast,
        seats: Seats,
        picture: Picture,
        tiles: Sequence[Tile],
        warm: Warm | None,
    ) -> Plan:
        """The plan of a picture that is looked at tile by tile: by then all of its masks are made."""
        omissions = Omissions()
        rewriting, asked, written = None, wanted, None
        if isinstance(wanted, TextRequest):
            rewriting = await self._rewriting(wanted)
            sought = distinct(rewriting.phrases if rewriting else as_written(wanted.phrases), omissions)
            asked = replace(wanted, phrases=tuple(each.phrase for each in sought), rewrite=False)
            written = [each.prompt_index for each in sought]
        plans: list[Plan] = []
        stages, cached = calls.current().stages, []

        async def look(part: WantedMasks, view: Picture, omissions: Omissions) -> list[SegmentedObject]:
            seats.segmenter.step_back()
            plan = await self._plan(part, cast, seats, view, warm if view is picture else None, omissions)
            plans.append(plan)
            if cast.segmenter.name in plan.models:
                cached.append(stages.embedding_cached)
            every = replace(plan, options=replace(plan.options, strategy=Strategy.ALL))
            return [each async for each in Run(every, self._executor).objects()]

        views = Views(picture, tiles, look, self._executor)
        found = await views.answer(asked)
        stages.embedding_cached = bool(cached) and all(cached)
        omissions.extend(views.omissions, written)
        if written is not None:
            found = [replace(each, prompt_index=written[each.prompt_index]) for each in found]
        return Plan(
            picture=picture,
            options=wanted.options,
            nms_iou=_nms_iou(wanted, cast),
            by_prompt=isinstance(wanted, PromptsRequest),
            most=len(found),
            seat=seats.segmenter,
            segmenter=cast.segmenter,
            proposals=proposals.made(found),
            omissions=omissions,
            models=tuple(dict.fromkeys(name for plan in plans for name in plan.models)),
            rewriting=rewriting,
        )

    async def _rewriting(self, wanted: TextRequest) -> Rewriting | None:
        if not wanted.rewrite or self._rewriter is None:
            return None
        with calls.stage("rewrite"):
            return await self._rewriter.rewrite(wanted.phrases)

    @staticmethod
    async def _embedding(seat: Seat, segmenter: ModelSpec, picture: Picture, warm: Warm | None) -> Embedding:
        if warm is not None and warm.device == seat.pool.device:
            calls.current().stages.embedding_cached = True
            return warm.embedding
        return await seat.embed(segmenter, picture)


def _with_image(request: SegmentRequest, image: ImageSource | None) -> SegmentRequest:
    if isinstance(request, AnalyzeRequest):
        return replace(request, regions=replace(request.regions, image=image))
    return replace(request, image=image)


def _needs_embedding_alone(request: SegmentRequest, cast: Cast) -> bool:
    if not isinstance(request, PromptsRequest | TextRequest) or cast.detector is not None:
        return False
    return request.options.overlay is None and request.options.tiling is None


def _nms_iou(wanted: WantedMasks, cast: Cast) -> float:
    if wanted.options.nms_iou is not None:
        return wanted.options.nms_iou
    if isinstance(wanted, TextRequest) and cast.detector is not None:
        return 0.7
    if isinstance(wanted, EverythingRequest) and cast.segmenter.family.proposes:
        return 0.7
    return 1.0
