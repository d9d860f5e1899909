"""Which of the masks that were made come back."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from cutout_server.imaging.masks import area, tight_box, union
from cutout_server.imaging.nms import mask_nms
from cutout_server.pipelines.context import Omissions
from cutout_server.types import OmissionReason, Options, SegmentedObject, Strategy


def select(
    objects: Sequence[SegmentedObject], options: Options, nms_iou: float, omissions: Omissions
) -> list[SegmentedObject]:
    """Applies NMS, the strategy and the greatest number, in this order; keeps the objects' order."""
    kept = _without_duplicates(objects, nms_iou, omissions)
    match options.strategy:
        case Strategy.BEST:
            kept = _one_per_prompt(kept, key=lambda o: o.score)
        case Strategy.LARGEST:
            kept = _one_per_prompt(kept, key=lambda o: o.area)
        case Strategy.MERGE:
            kept = [_merge(group) for group in _groups(kept, key=lambda o: o.label)]
        case Strategy.ALL:
            pass
    if len(kept) > options.max_objects:
        by_score = sorted(range(len(kept)), key=lambda i: -kept[i].score)
        for index in by_score[options.max_objects :]:
            omissions.add(OmissionReason.BEYOND_MAX_OBJECTS, kept[index].prompt_index)
        kept = [kept[index] for index in sorted(by_score[: options.max_objects])]
    return kept


def _without_duplicates(
    objects: Sequence[SegmentedObject], nms_iou: float, omissions: Omissions
) -> list[SegmentedObject]:
    if nms_iou >= 1 or len(objects) < 2:
        return list(objects)
    kept = set(mask_nms([o.mask for o in objects], [o.score for o in objects], [o.label for o in objects], nms_iou))
    for index, found in enumerate(objects):
        if index not in kept:
            omissions.add(OmissionReason.DUPLICATE, found.prompt_index)
    return [found for index, found in enumerate(objects) if index in kept]


def _one_per_prompt(
    objects: Sequence[SegmentedObject], key: Callable[[SegmentedObject], float]
) -> list[SegmentedObject]:
    return [max(group, key=key) for group in _groups(objects, key=lambda o: o.prompt_index)]


def _groups(
    objects: Sequence[SegmentedObject], key: Callable[[SegmentedObject], Hashable]
) -> list[list[SegmentedObject]]:
    groups: dict[Hashable, list[SegmentedObject]] = defaultdict(list)
    for found in objects:
        groups[key(found)].append(found)
    return list(groups.values())


def _merge(group: Sequence[SegmentedObject]) -> SegmentedObject:
    """The union, described by its best member; a prompt box or logits of one member would not describe it."""
    if len(group) == 1:
        return group[0]
    best = max(group, key=lambda o: o.score)
    mask = union([o.mask for o in group])
    return replace(
        best,
        mask=mask,
        box=tight_box(mask) or best.box,
        area=area(mask),
        prompt_box=None,
        logits=None,
        stability_score=None,
    )
