"""What boxes have in common, and which of many to keep."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from cutout_server.types import Box

Find = tuple[Box, float]  # With a score in [0, 1].
T = TypeVar("T")

_SAME = 0.4  # IoU from which two finds are of one thing,
_WITHIN = 0.7  # and the part of one that lies within the other.


def iou(first: Box, second: Box) -> float:
    """Of two boxes, in [0, 1]."""
    shared = _shared(first, second)
    return shared / max(_area(first) + _area(second) - shared, 1e-9)


def mapped(box: Box, across: float, down: float, left: float = 0.0, top: float = 0.0) -> Box:
    """A box of a picture that was scaled by so much, and then lies so far from the corner."""
    return Box(left + box.x_min * across, top + box.y_min * down, left + box.x_max * across, top + box.y_max * down)


def grouped(items: Iterable[T], box: Callable[[T], Box]) -> list[list[T]]:
    """What is much the same as the first of a group joins it."""
    groups: list[list[T]] = []
    for item in items:
        group = next((group for group in groups if iou(box(group[0]), box(item)) > _SAME), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return groups


def suppress(found: list[Find]) -> list[Find]:
    """Leaves out what mostly lies within a better find, and what is much the same; the best come first."""
    kept: list[Find] = []
    for box, score in sorted(found, key=lambda find: -find[1]):
        if all(iou(box, other) <= _SAME and _part(box, other) <= _WITHIN for other, _ in kept):
            kept.append((box, score))
    return kept


def _part(first: Box, second: Box) -> float:
    return _shared(first, second) / max(_area(first), 1e-9)


def _shared(first: Box, second: Box) -> float:
    across = min(first.x_max, second.x_max) - max(first.x_min, second.x_min)
    down = min(first.y_max, second.y_max) - max(first.y_min, second.y_min)
    return max(across, 0.0) * max(down, 0.0)


def _area(box: Box) -> float:
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)
