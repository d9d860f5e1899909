"""Everything in an image: by a grid of points, or in the segmenter's own way."""

from dataclasses import dataclass

from cutout_server.catalogue import ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.pipelines.automatic_masks import by_grid, in_its_own_way
from cutout_server.pipelines.candidates import Proposals
from cutout_server.pipelines.context import Context, Plan, Shared
from cutout_server.pipelines.kinds.masks_kind import MasksKind
from cutout_server.types import EverythingRequest, Task

OWN_WAY_NMS_IOU = 0.7  # The grid has its own, by boxes.

_OF_THE_GRID = (
    "box_nms_iou",
    "stability_offset",
    "crop_layers",
    "crop_overlap",
    "crop_points_downscale",
    "crop_nms_iou",
)


@dataclass(frozen=True)
class Everything(MasksKind[EverythingRequest]):
    """Proposes masks of whatever there is, without any prompt."""

    def plan(self, shared: Shared, segmenter: ModelSpec | None) -> Plan:
        chosen = segmenter or shared.catalogue.choose(self.request.segmenter, Task.EVERYTHING, "segmenter")
        if chosen.family.proposes:
            _check_no_grid(self.request, chosen)
        nms_iou = OWN_WAY_NMS_IOU if chosen.family.proposes else 1.0
        return Plan(chosen, needs_pixels=True, default_nms_iou=nms_iou)  # The grid cuts its crops from the pixels.

    async def propose(self, context: Context) -> Proposals:
        find = in_its_own_way if context.plan.segmenter.family.proposes else by_grid
        embedding = await context.embedding()
        return Proposals(find(context, embedding, self.request), 0, (context.plan.segmenter.name,))


def _check_no_grid(request: EverythingRequest, segmenter: ModelSpec) -> None:
    """Refuses what a segmenter that finds objects in a way of its own would ignore."""
    why = f"expected none with {segmenter.name!r}: it finds objects in a way of its own, without a grid"
    for name in _OF_THE_GRID:
        if getattr(request, name) != getattr(EverythingRequest, name):
            raise InvalidRequestError.of(name, why)
