"""Another kind of request, asked of the whole image and of overlapping tiles, and its answers put together."""

from dataclasses import dataclass, replace

from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.pipelines.candidates import Candidate, FinishedMask, Proposals, in_chunks
from cutout_server.pipelines.context import Context, Plan, Shared
from cutout_server.pipelines.kinds.kind import Kind
from cutout_server.pipelines.kinds.masks_kind import MasksKind
from cutout_server.pipelines.views import Views, views_of
from cutout_server.types import MasksRequest, SegmentedObject


@dataclass(frozen=True)
class Tiled(Kind[MasksRequest]):
    """Asks another kind of every view; the masks are made by the time that it proposes them.

    Attributes:
        kind: What each view is asked.
    """

    kind: MasksKind[MasksRequest]

    def plan(self, shared: Shared, segmenter: ModelSpec | None) -> Plan:
        return replace(self.kind.plan(shared, segmenter), needs_pixels=True)

    async def propose(self, context: Context) -> Proposals:
        tiles = views_of(self.request.options.tiling, context.image, context.shared.max_tiles)
        if len(tiles) == 1:
            return await self.kind.propose(context)
        kind = (await self.kind.settled(context)).in_views()
        views = Views(context, tiles)
        found = await kind.over_views(views)
        call_context.current().stages.embedding_cached = bool(views.cached) and all(views.cached)
        models = dict.fromkeys(name for proposals in views.proposals for name in proposals.models)
        candidates = in_chunks([_candidate(segmented) for segmented in found])
        return Proposals(candidates, len(found), tuple(models), views.proposals[0].rewriting)


def _candidate(found: SegmentedObject) -> Candidate:
    return Candidate(
        FinishedMask(found.mask),
        found.prompt_index,
        found.predicted_iou,
        found.label,
        found.detection_score,
        found.prompt_box,
        found.stability_score,
    )
