"""Words: a detector's boxes and a segmenter's masks of them, or the masks of a model that needs no detector."""

from dataclasses import dataclass, replace
from typing import Self

from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.lacking import no_exemplars, no_rewriter
from cutout_server.pipelines.candidates import Proposals, in_chunks
from cutout_server.pipelines.context import Context, Omissions, Plan, Shared
from cutout_server.pipelines.kinds.masks_kind import MasksKind
from cutout_server.pipelines.kinds.prompts import decode_prompts, most_candidates
from cutout_server.pipelines.words import detect, segment_text
from cutout_server.types import Rewriting, RewrittenPhrase, Task, TextRequest
from cutout_server.wording import reading

MASK_NMS_IOU = 0.7  # Of what is decoded from detected boxes, of which `words` has left out duplicates.


@dataclass(frozen=True)
class Text(MasksKind[TextRequest]):
    """Looks for each phrase; phrases that read alike are looked for once.

    Attributes:
        sought: What is looked for, once that is settled.
        rewriting: What the language model made of the phrases, if it was asked.
    """

    sought: tuple[RewrittenPhrase, ...] | None = None
    rewriting: Rewriting | None = None

    def plan(self, shared: Shared, segmenter: ModelSpec | None) -> Plan:
        request, catalogue = self.request, shared.catalogue
        if request.rewrite and shared.rewriter is None:
            raise no_rewriter()
        if request.exemplars and not any(spec.family.exemplars for spec in catalogue.specs.values()):
            raise no_exemplars()
        named = segmenter.name if segmenter else request.segmenter
        text_segmenter = catalogue.find(named, Task.SEGMENT_TEXT)
        detects = request.detector or (not named and catalogue.find("", Task.DETECT))
        if text_segmenter and not detects:
            _check_text_segmenter(request, text_segmenter)
            return Plan(text_segmenter, needs_pixels=False)
        detector = catalogue.choose(request.detector, Task.DETECT, "detector")
        if request.exemplars:
            raise InvalidRequestError.of("exemplars", f"expected none: detector {detector.name!r} takes none")
        chosen = segmenter or catalogue.choose(named, Task.SEGMENT, "segmenter")
        return Plan(chosen, {Task.DETECT: detector}, needs_pixels=True, default_nms_iou=MASK_NMS_IOU)

    async def settled(self, context: Context) -> Self:
        """With the phrases that are looked for: rewritten if that was asked, and each once."""
        if self.sought is not None:
            return self
        phrases = self.request.phrases
        rewriting = None
        if self.request.rewrite and context.shared.rewriter is not None:
            with call_context.stage("rewrite"):
                rewriting = await context.shared.rewriter.rewrite(phrases)
        written = tuple(RewrittenPhrase(phrase, index) for index, phrase in enumerate(phrases))
        sought = _distinct(rewriting.phrases if rewriting else written, context.omissions)
        return replace(self, sought=sought, rewriting=rewriting)

    async def propose(self, context: Context) -> Proposals:
        kind = await self.settled(context)
        sought, segmenter = kind.sought or (), context.plan.segmenter
        if Task.DETECT not in context.plan.beside:
            finds = await segment_text(context, self.request, sought)
            return Proposals(in_chunks(finds), len(finds), (segmenter.name,), kind.rewriting)
        boxes = await detect(context, self.request, sought)
        models = (context.plan.beside[Task.DETECT].name,)
        if not boxes:  # There is nothing to embed the image for.
            return Proposals(in_chunks([]), 0, models, kind.rewriting)
        candidates = decode_prompts(context, await context.embedding(), boxes, self.request.options)
        most = most_candidates(len(boxes), self.request.options)
        return Proposals(candidates, most, (*models, segmenter.name), kind.rewriting)


def _check_text_segmenter(request: TextRequest, segmenter: ModelSpec) -> None:
    """Refuses what is a detector's, or a prompt's that is points or a box, and would be ignored."""
    unknown = [
        ("text_threshold", request.text_threshold is not None, "it has a box_threshold only"),
        ("exemplars", bool(request.exemplars) and not segmenter.family.exemplars, "it takes none"),
        ("options.multimask", request.options.multimask, "it gives one mask for each find"),
        ("options.return_logits", request.options.return_logits, "its logits are no prompt"),
    ]
    for field, refused, why in unknown:
        if refused:
            raise InvalidRequestError.of(field, f"expected none with {segmenter.name!r}: {why}")


def _distinct(sought: tuple[RewrittenPhrase, ...], omissions: Omissions) -> tuple[RewrittenPhrase, ...]:
    """Of phrases that read alike the first, so that no find comes twice; the others are told by name."""
    first: dict[str, RewrittenPhrase] = {}
    for phrase in sought:
        kept = first.setdefault(reading(phrase.phrase), phrase)
        if kept.prompt_index != phrase.prompt_index:
            omissions.same(phrase.prompt_index, kept.prompt_index)
    return tuple(first.values())
