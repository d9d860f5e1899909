"""A request for a large picture, asked of the whole picture and of overlapping tiles, and its answers put together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from cutout_server import calls
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import masks
from cutout_server.imaging.tiles import JOINED, NEAR_PX, Part, Tile, distinct, joined, tiles, window
from cutout_server.pipelines.geometry import fit
from cutout_server.pipelines.selection import Omissions
from cutout_server.types import (
    Box,
    EverythingRequest,
    ObjectPrompt,
    OmissionReason,
    Options,
    Picture,
    PromptsRequest,
    SegmentedObject,
    TextRequest,
)

T = TypeVar("T")

WantedMasks = TextRequest | PromptsRequest | EverythingRequest
# Asks a request of a view, and gives its objects with their masks in the view's pixels; notes what was left out.
Look = Callable[[WantedMasks, Picture, Omissions], Awaitable[list[SegmentedObject]]]


@dataclass(frozen=True)
class Views:
    """The whole picture and its tiles.

    Attributes:
        picture: The whole one.
        tiles: The whole picture first.
        look: What a view is asked with.
        executor: Where masks are compared.
        omissions: What was left out by then.
    """

    picture: Picture
    tiles: Sequence[Tile]
    look: Look
    executor: Executor
    omissions: Omissions = field(default_factory=Omissions)

    async def answer(self, wanted: WantedMasks) -> list[SegmentedObject]:
        """The objects of all views, each once, with their masks at the picture's size and nothing encoded.

        Raises:
            CutoutError: A view could not be asked, or the caller's deadline has passed.
        """
        plain = replace(wanted, options=_in_view(wanted.options))
        if isinstance(plain, PromptsRequest):
            found = await self._of_prompts(plain)
        else:
            seen = [(view, each) for view in range(len(self.tiles)) for each in await self._seen(view, plain)]
            with calls.stage("masks"):
                found = await self._off_loop(_put_together, seen, self.tiles, self.picture, self.omissions)
        with calls.stage("masks"):
            return await self._off_loop(_finished, found, wanted.options, self.omissions)

    async def _of_prompts(self, wanted: PromptsRequest) -> list[SegmentedObject]:
        """Each prompt in the view that holds it best, and in the whole picture if its object goes on beyond that."""
        prompts = fit(wanted, self.picture)
        places = [_place(prompt, self.tiles) for prompt in prompts]
        found: list[SegmentedObject] = []
        # The whole picture comes last, when it is known what is cut in the tiles.
        for view in [*range(1, len(self.tiles)), 0]:
            indices = [index for index, place in enumerate(places) if place == view]
            if not indices:
                continue
            tile = self.tiles[view]
            asked = replace(wanted, prompts=tuple(_moved(prompts[index], tile) for index in indices))
            objects = await self._seen(view, asked, indices)
            cut = {each.prompt_index for each in objects if view and self._cuts(tile, each.box)}
            for index in cut:
                places[index] = 0
            found += [each for each in objects if each.prompt_index not in cut]
        return sorted(found, key=lambda each: each.prompt_index)

    async def _seen(
        self, view: int, wanted: WantedMasks, prompt_indices: Sequence[int] | None = None
    ) -> list[SegmentedObject]:
        """What a view shows, in the picture's pixels and with the request's own index of each prompt."""
        tile = self.tiles[view]
        part = self.picture
        if view:
            name = f"{part.key}[{tile.left},{tile.top},{tile.right},{tile.bottom}]"
            # A copy: whoever keeps a view of the picture keeps all of it.
            part = Picture.of(tile.of(part.pixels).copy(), name)
        omissions = Omissions()
        objects = await self.look(wanted, part, omissions)
        self.omissions.extend(omissions, prompt_indices)
        if prompt_indices is not None:
            objects = [replace(each, prompt_index=prompt_indices[each.prompt_index]) for each in objects]
        if not view:
            return objects
        return await self._off_loop(_placed, objects, tile, self.picture)

    def _cuts(self, tile: Tile, box: Box) -> bool:
        return tile.cuts(box, self.picture.height, self.picture.width)

    async def _off_loop(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, partial(work, *args))


def views_of(wanted: WantedMasks, picture: Picture, max_tiles: int) -> list[Tile]:
    """The whole picture, and the tiles that the request asks for, if any.

    Raises:
        InvalidRequestError: They are more than the server's bound.
    """
    tiling = wanted.options.tiling
    parts = tiles(picture.height, picture.width, tiling) if tiling else []
    if tiling and len(parts) > max_tiles:
        size = f"{picture.width} x {picture.height}"
        what = f"expected one that cuts the {size} picture into at most {max_tiles} tiles, got {tiling.tile_size}"
        raise InvalidRequestError.of("options.tiling.tile_size", f"{what}, which makes {len(parts)}")
    return [Tile(0, 0, picture.width, picture.height), *parts]


def _in_view(options: Options) -> Options:
    """What holds for every view; the rest is for what the views come to together."""
    return replace(options, tiling=None, overlay=None, mask_formats=(), min_area=0, max_hole_area=0, min_part_area=0)


def _place(prompt: ObjectPrompt, views: Sequence[Tile]) -> int:
    """The tile in whose middle the prompt lies best among those that hold all of it; the whole picture if none does."""
    spots = prompt.points
    if prompt.box:
        box = prompt.box
        spots = np.concatenate([spots, [[box.x_min, box.y_min], [box.x_max, box.y_max]]]).astype(np.float32)
    low, high = spots.min(axis=0), spots.max(axis=0)
    size = (views[0].right, views[0].bottom)
    best, room = 0, 0.0
    for number, tile in enumerate(views[1:], start=1):
        # The picture's own edges cut nothing off.
        margins = [
            float("inf") if edge in (0, length) else inside
            for edge, length, inside in (
                (tile.left, size[0], low[0] - tile.left),
                (tile.top, size[1], low[1] - tile.top),
                (tile.right, size[0], tile.right - high[0]),
                (tile.bottom, size[1], tile.bottom - high[1]),
            )
        ]
        if min(margins) > max(room, NEAR_PX):
            best, room = number, min(margins)
    return best


def _moved(prompt: ObjectPrompt, tile: Tile) -> ObjectPrompt:
    corner = np.array([tile.left, tile.top], np.float32)
    return replace(
        prompt, points=prompt.points - corner, box=prompt.box and _shifted(prompt.box, -tile.left, -tile.top)
    )


def _shifted(box: Box, x: int, y: int) -> Box:
    return Box(box.x_min + x, box.y_min + y, box.x_max + x, box.y_max + y)


def _placed(objects: Sequence[SegmentedObject], tile: Tile, picture: Picture) -> list[SegmentedObject]:
    return [
        replace(
            each,
            mask=window(each.mask, -tile.left, -tile.top, picture.height, picture.width),
            box=_shifted(each.box, tile.left, tile.top),
            prompt_box=each.prompt_box and _shifted(each.prompt_box, tile.left, tile.top),
        )
        for each in objects
    ]


def _put_together(
    seen: Sequence[tuple[int, SegmentedObject]], views: Sequence[Tile], picture: Picture, omissions: Omissions
) -> list[SegmentedObject]:
    """Joins what seams cut, and leaves out what another view shows better."""
    parts = [
        Part(
            view,
            each.mask,
            each.box,
            (each.prompt_index, each.label),
            each.score,
            cut=views[view].cuts(each.box, picture.height, picture.width),
        )
        for view, each in seen
    ]
    objects, whole = [], []
    for group in joined(parts, views):
        members = [seen[index][1] for index in group]
        made = _union(members)
        part = parts[group[0]]
        if len(group) > 1:
            part = replace(part, view=JOINED, mask=made.mask, box=made.box, score=made.score)
        objects.append(made)
        whole.append(part)
    kept = distinct(whole)
    for index in set(range(len(whole))) - set(kept):
        omissions.add(OmissionReason.DUPLICATE, objects[index].prompt_index)
    return [objects[index] for index in kept]


def _union(members: Sequence[SegmentedObject]) -> SegmentedObject:
    """One object of its parts, described by the best of them."""
    best = max(members, key=lambda each: each.score)
    if len(members) == 1:
        return best
    mask = masks.union([each.mask for each in members])
    boxes = [each.prompt_box for each in members if each.prompt_box]
    return replace(
        best,
        mask=mask,
        box=_around([each.box for each in members]),
        area=masks.area(mask),
        prompt_box=_around(boxes) if boxes else None,
        stability_score=None,
    )


def _around(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.x_min for box in boxes),
        min(box.y_min for box in boxes),
        max(box.x_max for box in boxes),
        max(box.y_max for box in boxes),
    )


def _finished(objects: Sequence[SegmentedObject], options: Options, omissions: Omissions) -> list[SegmentedObject]:
    """Cleaned and measured as the request asks."""
    finished = []
    for each in objects:
        found = _cleaned(each, options) if options.max_hole_area or options.min_part_area > 1 else each
        if found.area < options.min_area:
            omissions.add(OmissionReason.BELOW_MIN_AREA, found.prompt_index)
        else:
            finished.append(found)
    return finished


def _cleaned(found: SegmentedObject, options: Options) -> SegmentedObject:
    mask = masks.to_rle(masks.clean(masks.from_rle(found.mask), options.max_hole_area, options.min_part_area))
    return replace(found, mask=mask, area=masks.area(mask), box=masks.tight_box(mask) or found.box)
