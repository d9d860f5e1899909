"""Boxes, points and earlier masks: one object for each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutout_server.catalogue import ModelSpec
from cutout_server.pipelines.candidates import Proposals
from cutout_server.pipelines.context import Context, SelectedModels, Shared
from cutout_server.pipelines.decoding import LabelledPrompt, decode_prompts
from cutout_server.pipelines.geometry import fit
from cutout_server.pipelines.kinds.masks_kind import MasksKind
from cutout_server.pipelines.views import Views, best_view, moved
from cutout_server.types import PromptsRequest, SegmentedObject, Task


@dataclass(frozen=True)
class Prompts(MasksKind[PromptsRequest]):
    """See above.

    Attributes:
        indices: Of the prompts in the caller's request, when they are only some of them.
    """

    indices: Sequence[int] | None = None

    @property
    def keeps_order(self) -> bool:
        """See Kind."""
        return True

    def select_models(self, shared: Shared, segmenter: ModelSpec | None) -> SelectedModels:
        """See Kind."""
        return SelectedModels(segmenter or shared.catalogue.choose(self.request.segmenter, Task.SEGMENT, "segmenter"))

    def needs_pixels(self, _models: SelectedModels) -> bool:
        """See Kind."""
        return False

    def default_nms_iou(self, _models: SelectedModels) -> float:
        """See Kind."""
        return 1.0

    async def propose(self, context: Context) -> Proposals:
        """See Kind."""
        prompts = fit(self.request, context.image)
        indices = range(len(prompts)) if self.indices is None else self.indices
        labelled = [LabelledPrompt(index, prompt) for index, prompt in zip(indices, prompts, strict=True)]
        embedding = await context.embedding()
        candidates = decode_prompts(context, embedding, labelled, self.options)
        return Proposals(candidates, len(labelled), (context.models.segmenter.name,))

    async def over_views(self, views: Views) -> list[SegmentedObject]:
        """Each prompt in the view that holds it best, and in the whole image if its object goes on beyond that."""
        prompts = fit(self.request, views.context.image)
        places = [best_view(prompt, views.tiles) for prompt in prompts]
        found: list[SegmentedObject] = []
        # The whole image comes last, when it is known what is cut in the tiles.
        for view in [*range(1, len(views.tiles)), 0]:
            indices = [index for index, place in enumerate(places) if place == view]
            if not indices:
                continue
            tile = views.tiles[view]
            held = replace(self.request, prompts=tuple(moved(prompts[index], tile) for index in indices))
            objects = await views.see(view, Prompts(held, indices))
            cut = {part.prompt_index for part in objects if view and views.cuts(view, part.box)}
            for index in cut:
                places[index] = 0
            found += [whole for whole in objects if whole.prompt_index not in cut]
        return sorted(found, key=lambda segmented: segmented.prompt_index)
