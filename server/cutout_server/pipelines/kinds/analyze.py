"""What an image and its regions show: the masks of another kind of request, and concepts for each."""

from dataclasses import dataclass, replace

from cutout_server.catalogue import ModelSpec
from cutout_server.pipelines.candidates import Proposals
from cutout_server.pipelines.context import Context, Plan, Shared
from cutout_server.pipelines.kinds.kind import Kind
from cutout_server.types import AnalyzeRequest, SegmentRequest, Task


@dataclass(frozen=True)
class Analyze(Kind[AnalyzeRequest]):
    """Finds regions as another kind does, and compares them and the whole image with the concepts.

    Attributes:
        regions: Finds them.
    """

    regions: Kind[SegmentRequest]

    def plan(self, shared: Shared, segmenter: ModelSpec | None) -> Plan:
        plan = self.regions.plan(shared, segmenter)
        classifier = shared.catalogue.choose(self.request.classifier, Task.CLASSIFY, "classifier")
        return replace(plan, beside={**plan.beside, Task.CLASSIFY: classifier}, needs_pixels=True)

    async def propose(self, context: Context) -> Proposals:
        proposals = await self.regions.propose(context)
        slot, classifier = context.slots.beside[Task.CLASSIFY], context.plan.beside[Task.CLASSIFY]
        describer = await context.shared.concepts.describer(slot, classifier, self.request)
        (concepts,) = await describer.describe([context.image.pixels])
        models = (*proposals.models, classifier.name)
        return replace(proposals, describer=describer, concepts=concepts, models=models)
