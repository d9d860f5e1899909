"""Large pictures in overlapping tiles: where they lie, and how what they show is put together again.

An object that a seam cuts is seen by both tiles in the strip that they share: parts that agree there are one object.
What several views show whole comes back once, from the view that shows it best.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from cutout_common import masks as codec
from cutout_server.imaging import masks
from cutout_server.types import Box, RgbImage, Rle, Tiling
from numpy.typing import NDArray

JOINED = -1
NEAR_PX = 20  # From a seam; a mask that comes nearer may be cut off there, as in the official mask generators.
_AGREE_IOU = 0.5  # Of two parts of one object, in the strip that their tiles share.
_SAME_IOU = 0.5  # Of one object in two views.
_INSIDE = 0.7  # Share of a part that lies in an object of which it shows no more.


@dataclass(frozen=True)
class Tile:
    """A part of the picture, or all of it.

    Attributes:
        left: First column.
        top: First row.
        right: Behind the last column.
        bottom: Behind the last row.
    """

    left: int
    top: int
    right: int
    bottom: int

    def of(self, pixels: RgbImage) -> RgbImage:
        """What lies inside: a view."""
        return pixels[self.top : self.bottom, self.left : self.right]

    def cuts(self, box: Box, height: int, width: int) -> bool:
        """Whether what a box of the picture is around may go on beyond the tile."""
        return (
            (box.x_min < self.left + NEAR_PX and self.left > 0)
            or (box.y_min < self.top + NEAR_PX and self.top > 0)
            or (box.x_max > self.right - NEAR_PX and self.right < width)
            or (box.y_max > self.bottom - NEAR_PX and self.bottom < height)
        )

    def shared(self, other: "Tile") -> "Tile | None":
        """What both show."""
        strip = Tile(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        return strip if strip.left < strip.right and strip.top < strip.bottom else None


@dataclass(frozen=True)
class Part:
    """A mask that a view showed.

    Attributes:
        view: Which one; 0 is the whole picture, JOINED several of them.
        mask: At the picture's size.
        box: Tight around it.
        label: Masks of different labels are never one object.
        score: Ranks masks.
        cut: Whether it may go on beyond its view.
    """

    view: int
    mask: Rle = field(repr=False)
    box: Box
    label: Hashable
    score: float
    cut: bool

    @property
    def rank(self) -> int:
        """Of two of one object the one with the higher rank stays.

        What a tile shows uncut is finer than the same in the whole picture, and that is surer than what was joined.
        """
        if not self.cut:
            return 3 if self.view else 2
        return 1 if self.view == JOINED else 0


def tiles(height: int, width: int, tiling: Tiling) -> list[Tile]:
    """Row after row, as few as there can be, evenly spread; empty for a picture no larger than one."""
    lines = [list(_spans(length, tiling)) for length in (height, width)]
    if len(lines[0]) * len(lines[1]) == 1:
        return []
    return [Tile(left, top, right, bottom) for top, bottom in lines[0] for left, right in lines[1]]


def window(mask: Rle, left: int, top: int, height: int, width: int) -> Rle:
    """What a window at (left, top) shows of a mask; what lies beyond the mask is outside."""
    return Rle(height, width, codec.rle_window(mask.height, mask.width, mask.counts, left, top, height, width))


def joined(parts: Sequence[Part], views: Sequence[Tile]) -> list[list[int]]:
    """Groups of parts that are one object, by their indices; most have one member.

    Args:
        parts: Of all views.
        views: By number.
    """
    cut = [index for index, part in enumerate(parts) if part.cut]
    leader = list(range(len(parts)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for one, other in combinations(sorted({parts[index].view for index in cut}), 2):
        strip = views[one].shared(views[other])
        if strip is None:
            continue
        mine = [index for index in cut if parts[index].view == one and _reaches(parts[index], strip)]
        theirs = [index for index in cut if parts[index].view == other and _reaches(parts[index], strip)]
        if not mine or not theirs:
            continue
        agreement = _agreement([parts[i] for i in mine], [parts[i] for i in theirs], strip)
        for row, column in _best_pairs(agreement):
            leader[find(theirs[column])] = find(mine[row])
    groups: dict[int, list[int]] = {}
    for index in range(len(parts)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())


def distinct(parts: Sequence[Part]) -> list[int]:
    """Indices of the parts that show something of their own, in their order.

    Within one view nothing is compared: that is for the models and the request's own limits.
    """
    order = sorted(range(len(parts)), key=lambda index: (parts[index].rank, parts[index].score), reverse=True)
    kept: list[int] = []
    for index in order:
        if not _repeats(parts[index], [parts[other] for other in kept if _rivals(parts[index], parts[other])]):
            kept.append(index)
    return sorted(kept)


def _spans(length: int, tiling: Tiling) -> Iterator[tuple[int, int]]:
    size = min(tiling.tile_size, length)
    step = size - math.ceil(tiling.overlap * tiling.tile_size)
    count = 1 if size == length else 1 + math.ceil((length - size) / step)
    for start in np.linspace(0, length - size, count).round().astype(int).tolist():
        yield start, start + size


def _reaches(part: Part, strip: Tile) -> bool:
    box = part.box
    across = box.x_min < strip.right and box.x_max > strip.left
    return across and box.y_min < strip.bottom and box.y_max > strip.top


def _rivals(one: Part, other: Part) -> bool:
    if one.label != other.label or (one.view == other.view != JOINED):
        return False
    box = other.box
    return _reaches(one, Tile(int(box.x_min), int(box.y_min), int(box.x_max), int(box.y_max)))


def _repeats(part: Part, better: Sequence[Part]) -> bool:
    """Whether one of the better parts is the same object, or has what a seam left of it inside."""
    if not better:
        return False
    mask = part.mask
    iou = codec.rle_iou(mask.height, mask.width, [mask.counts], [other.mask.counts for other in better])[0]
    if (iou > _SAME_IOU).any():
        return True
    if part.view == JOINED or not part.cut:  # Something whole may well lie inside of something else.
        return False
    area = masks.area(mask)
    shared = iou / (1 + iou) * (area + np.array([masks.area(other.mask) for other in better]))
    return bool((shared > _INSIDE * area).any())


def _agreement(mine: Sequence[Part], theirs: Sequence[Part], strip: Tile) -> NDArray[np.float64]:
    """IoU of each with each in the strip; 0 for those of different labels."""
    height, width = strip.bottom - strip.top, strip.right - strip.left
    seen = [
        [window(part.mask, strip.left, strip.top, height, width).counts for part in side] for side in (mine, theirs)
    ]
    alike = np.array([[one.label == other.label for other in theirs] for one in mine])
    return np.asarray(codec.rle_iou(height, width, *seen) * alike)


def _best_pairs(agreement: NDArray[np.float64]) -> list[tuple[int, int]]:
    """(row, column) of those that agree, each the other's best."""
    rows = np.arange(len(agreement))
    best = agreement.argmax(axis=1)
    mutual = (agreement.argmax(axis=0)[best] == rows) & (agreement[rows, best] > _AGREE_IOU)
    return [(int(row), int(best[row])) for row in rows[mutual]]
