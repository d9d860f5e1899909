"""Phrases to boxes, or to masks."""

from collections.abc import Sequence

from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.nms import detection_nms
from cutout_server.models.operations import DETECT, SEGMENT_TEXT
from cutout_server.models.queries import DetectQuery, TextQuery
from cutout_server.pipelines.candidates import Candidate, LabelledPrompt, LowResMask
from cutout_server.pipelines.context import Context
from cutout_server.types import (
    Exemplar,
    ObjectPrompt,
    OmissionReason,
    Picture,
    RewrittenPhrase,
    Task,
    TextRequest,
)

# Of detectors' boxes; models that segment by text remove duplicates themselves.
BOX_NMS_IOU = 0.7


async def detect(context: Context, request: TextRequest, sought: Sequence[RewrittenPhrase]) -> list[LabelledPrompt]:
    """Boxes of what the phrases name, by a detector, the best first."""
    image, slot, detector = context.image, context.slots.beside[Task.DETECT], context.plan.beside[Task.DETECT]
    family = detector.family
    query = DetectQuery(
        await slot.image_features(detector, image),
        tuple(phrase.phrase for phrase in sought),
        family.box_threshold if request.box_threshold is None else request.box_threshold,
        family.text_threshold if request.text_threshold is None else request.text_threshold,
    )
    detections = await slot.ask(DETECT, detector, query)
    inside = [(d, box) for d in detections if (box := d.box.clipped(image.height, image.width)) is not None]
    nms_iou = BOX_NMS_IOU if request.box_nms_iou is None else request.box_nms_iou
    kept = detection_nms(
        [box for _, box in inside], [d.score for d, _ in inside], [d.phrase_index for d, _ in inside], nms_iou
    )
    found = []
    for index, (detection, box) in enumerate(inside):
        phrase = sought[detection.phrase_index]
        if index in kept:
            found.append(LabelledPrompt(phrase.prompt_index, ObjectPrompt(box=box), phrase.phrase, detection.score))
        else:
            context.omissions.add(OmissionReason.DUPLICATE, phrase.prompt_index)
    return sorted(found, key=lambda labelled: -(labelled.detection_score or 0.0))


async def segment_text(context: Context, request: TextRequest, sought: Sequence[RewrittenPhrase]) -> list[Candidate]:
    """Masks of what the phrases name, by a model that needs no detector, the best first."""
    embedding = await context.embedding()
    image, slot, segmenter = context.image, context.slots.segmenter, context.plan.segmenter
    query = TextQuery(
        embedding,
        tuple(phrase.phrase for phrase in sought),
        segmenter.family.box_threshold if request.box_threshold is None else request.box_threshold,
        _exemplars(request, image),
    )
    finds = await slot.ask(SEGMENT_TEXT, segmenter, query)
    nms_iou = 1.0 if request.box_nms_iou is None else request.box_nms_iou
    kept = detection_nms(
        [find.box for find in finds],
        [find.score or 0.0 for find in finds],
        [find.phrase_index for find in finds],
        nms_iou,
    )
    candidates = []
    for index, find in enumerate(finds):
        phrase = sought[find.phrase_index]
        if index in kept:
            mask, box = LowResMask(find.embedding, find.logits), find.box.clipped(image.height, image.width)
            candidates.append(Candidate(mask, phrase.prompt_index, 0.0, phrase.phrase, find.score, box))
        else:
            context.omissions.add(OmissionReason.DUPLICATE, phrase.prompt_index)
    return sorted(candidates, key=lambda candidate: -(candidate.detection_score or 0.0))


def _exemplars(request: TextRequest, picture: Picture) -> tuple[Exemplar, ...]:
    clipped = []
    for index, exemplar in enumerate(request.exemplars):
        box = exemplar.box.clipped(picture.height, picture.width)
        if box is None:
            size = f"{picture.width} x {picture.height}"
            raise InvalidRequestError.of(f"exemplars[{index}].box", f"expected a box that overlaps the {size} picture")
        clipped.append(Exemplar(box, exemplar.positive))
    return tuple(clipped)
