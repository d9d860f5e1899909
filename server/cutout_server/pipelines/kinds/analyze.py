"""What an image and its regions show: the masks of another kind of request, and concepts for each."""

from dataclasses import dataclass, replace

from cutout_server.catalogue import ModelSpec
from cutout_server.pipelines.candidates import Proposals
from cutout_server.pipelines.context import Context, SelectedModels, Shared
from cutout_server.pipelines.kinds.kind import Kind
from cutout_server.types import AnalyzeRequest, SegmentRequest, Task


@dataclass(frozen=True)
class Analyze(Kind[AnalyzeRequest]):
    """Finds regions as another kind does, and compares them and the whole image with the concepts.

    Attributes:
        regions: Finds them.
    """

    regions: Kind[SegmentRequest]

    @property
    def keeps_order(self) -> bool:
        return self.regions.keeps_order

    def select_models(self, shared: Shared, segmenter: ModelSpec | None) -> SelectedModels:
        models = self.regions.select_models(shared, segmenter)
        classifier = shared.catalogue.choose(self.request.classifier, Task.CLASSIFY, "classifier")
        return replace(models, beside={**models.beside, Task.CLASSIFY: classifier})

    def needs_pixels(self, _models: SelectedModels) -> bool:
        return True

    def default_nms_iou(self, models: SelectedModels) -> float:
        return self.regions.default_nms_iou(models)

    async def propose(self, context: Context) -> Proposals:
        proposals = await self.regions.propose(context)
        slot, classifier = context.slots.beside[Task.CLASSIFY], context.models.beside[Task.CLASSIFY]
        describer = await context.shared.concepts.describer(slot, classifier, self.request)
        (concepts,) = await describer.describe([context.image.pixels])
        models = (*proposals.models, classifier.name)
        return replace(proposals, describer=describer, concepts=concepts, models=models)
