"""The whole image and its overlapping tiles: the objects in each view, and how they are put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cutout_server import call_context
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import masks
from cutout_server.imaging.tiles import JOINED, NEAR_PX, Part, Tile, distinct, joined, tiles, window
from cutout_server.pipelines.candidates import Proposals
from cutout_server.pipelines.context import Context, Omissions
from cutout_server.pipelines.finishing import Finisher
from cutout_server.pipelines.kinds.kind import Kind
from cutout_server.types import (
    Box,
    ObjectPrompt,
    OmissionReason,
    Picture,
    SegmentedObject,
    SegmentRequest,
    Strategy,
    Tiling,
)


@dataclass(frozen=True)
class Views:
    """The views of a request, and what was learnt from those that were asked.

    Attributes:
        context: Of the whole image.
        tiles: The whole image first.
        proposals: Of each view that was asked.
        cached: Whether each view that needed an embedding found it.
    """

    context: Context
    tiles: Sequence[Tile]
    proposals: list[Proposals] = field(default_factory=list)
    cached: list[bool] = field(default_factory=list)

    async def see(self, view: int, kind: Kind[SegmentRequest]) -> list[SegmentedObject]:
        """The objects that a view shows, with their masks at the whole image's size and nothing encoded.

        Raises:
            CutoutError: The view could not be asked, or the caller's deadline has passed.
        """
        whole, tile, stages = self.context, self.tiles[view], call_context.current().stages
        context = whole
        if view:
            name = f"{whole.image.key}[{tile.left},{tile.top},{tile.right},{tile.bottom}]"
            # A copy: whoever keeps a view of the picture keeps all of it.
            context = whole.of_part(Picture.of(tile.of(whole.image.pixels).copy(), name))
        proposals = await kind.propose(context)
        self.proposals.append(proposals)
        if context.plan.segmenter.name in proposals.models:
            self.cached.append(stages.embedding_cached)
        options = replace(kind.request.options, strategy=Strategy.ALL)
        found = await Finisher(context, options).selected(proposals.candidates)
        return await whole.off_loop(_placed, found, tile, whole.image) if view else found

    def cuts(self, view: int, box: Box) -> bool:
        """Whether what a box is around may go on beyond a view."""
        return self.tiles[view].cuts(box, self.context.image.height, self.context.image.width)


def views_of(tiling: Tiling | None, image: Picture, max_tiles: int) -> list[Tile]:
    """The whole image, and the tiles that a request asks for, if any.

    Raises:
        InvalidRequestError: They are more than the server's bound.
    """
    parts = tiles(image.height, image.width, tiling) if tiling else []
    if tiling and len(parts) > max_tiles:
        size = f"{image.width} x {image.height}"
        what = f"expected one that cuts the {size} picture into at most {max_tiles} tiles, got {tiling.tile_size}"
        raise InvalidRequestError.of("options.tiling.tile_size", f"{what}, which makes {len(parts)}")
    return [Tile(0, 0, image.width, image.height), *parts]


def best_view(prompt: ObjectPrompt, views: Sequence[Tile]) -> int:
    """The tile in whose middle the prompt lies best among those that hold all of it; the whole image if none does."""
    spots = prompt.points
    if prompt.box:
        box = prompt.box
        spots = np.concatenate([spots, [[box.x_min, box.y_min], [box.x_max, box.y_max]]]).astype(np.float32)
    low, high = spots.min(axis=0), spots.max(axis=0)
    size = (views[0].right, views[0].bottom)
    best, room = 0, 0.0
    for number, tile in enumerate(views[1:], start=1):
        # The image's own edges cut nothing off.
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


def moved(prompt: ObjectPrompt, tile: Tile) -> ObjectPrompt:
    """The prompt in a tile's pixels."""
    corner = np.array([tile.left, tile.top], np.float32)
    return replace(
        prompt, points=prompt.points - corner, box=prompt.box and _shifted(prompt.box, -tile.left, -tile.top)
    )


def _shifted(box: Box, x: int, y: int) -> Box:
    return Box(box.x_min + x, box.y_min + y, box.x_max + x, box.y_max + y)


def _placed(objects: Sequence[SegmentedObject], tile: Tile, image: Picture) -> list[SegmentedObject]:
    return [
        replace(
            found,
            mask=window(found.mask, -tile.left, -tile.top, image.height, image.width),
            box=_shifted(found.box, tile.left, tile.top),
            prompt_box=found.prompt_box and _shifted(found.prompt_box, tile.left, tile.top),
        )
        for found in objects
    ]


def put_together(
    seen: Sequence[tuple[int, SegmentedObject]], views: Sequence[Tile], image: Picture, omissions: Omissions
) -> list[SegmentedObject]:
    """Joins what seams cut, and leaves out what another view shows better."""
    parts = [
        Part(
            view,
            found.mask,
            found.box,
            (found.prompt_index, found.label),
            found.score,
            cut=views[view].cuts(found.box, image.height, image.width),
        )
        for view, found in seen
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
    best = max(members, key=lambda member: member.score)
    if len(members) == 1:
        return best
    mask = masks.union([member.mask for member in members])
    boxes = [member.prompt_box for member in members if member.prompt_box]
    return replace(
        best,
        mask=mask,
        box=_around([member.box for member in members]),
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
