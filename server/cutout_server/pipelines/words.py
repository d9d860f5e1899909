"""What a request's words come to: boxes by a detector, or masks by a model that needs none."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from cutout_server.catalogue import ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.models.base import DetectQuery, Embedding, TextQuery
from cutout_server.models.operations import DETECT, SEGMENT_TEXT
from cutout_server.pipelines.geometry import clip
from cutout_server.pipelines.proposals import Found, Proposal
from cutout_server.pipelines.selection import Omissions
from cutout_server.pools.placement import Seat
from cutout_server.types import (
    Box,
    Exemplar,
    ObjectPrompt,
    OmissionReason,
    Picture,
    RewrittenPhrase,
    TextRequest,
)
from cutout_server.wording import reading

# Of detectors' boxes; models that segment by text remove duplicates themselves.
BOX_NMS_IOU = 0.7


def check_detector(request: TextRequest, detector: ModelSpec) -> None:
    """Refuses what the detector would ignore.

    Raises:
        InvalidRequestError: There are exemplars.
    """
    if request.exemplars:
        raise InvalidRequestError.of("exemplars", f"expected none: detector {detector.name!r} takes none")


def check_text_segmenter(request: TextRequest, segmenter: ModelSpec) -> None:
    """Refuses what a model that segments by text would ignore.

    Raises:
        InvalidRequestError: The request asks for something of a detector's, or of prompts that are points or boxes.
    """
    name = segmenter.name
    unknown = [
        ("text_threshold", request.text_threshold is not None, "it has a box_threshold only"),
        ("exemplars", bool(request.exemplars) and not segmenter.family.exemplars, "it takes none"),
        ("options.multimask", request.options.multimask, "it gives one mask for each find"),
        ("options.return_logits", request.options.return_logits, "its logits are no prompt"),
    ]
    for field, refused, why in unknown:
        if refused:
            raise InvalidRequestError.of(field, f"expected none with {name!r}: {why}")


async def detect(
    seat: Seat,
    detector: ModelSpec,
    request: TextRequest,
    sought: Sequence[RewrittenPhrase],
    picture: Picture,
    omissions: Omissions,
) -> list[Found]:
    """Boxes of what the phrases name, the best first."""
    family = detector.family
    query = DetectQuery(
        await seat.image_features(detector, picture),
        tuple(each.phrase for each in sought),
        family.box_threshold if request.box_threshold is None else request.box_threshold,
        family.text_threshold if request.text_threshold is None else request.text_threshold,
    )
    detections = await seat.ask(DETECT, detector, query)
    inside = [(d, box) for d in detections if (box := clip(d.box, picture)) is not None]
    nms_iou = BOX_NMS_IOU if request.box_nms_iou is None else request.box_nms_iou
    kept = _without_duplicates([(box, d.score, d.phrase_index) for d, box in inside], nms_iou)
    found = []
    for index, (detection, box) in enumerate(inside):
        phrase = sought[detection.phrase_index]
        if index in kept:
            found.append(Found(phrase.prompt_index, ObjectPrompt(box=box), phrase.phrase, detection.score))
        else:
            omissions.add(OmissionReason.DUPLICATE, phrase.prompt_index)
    return sorted(found, key=lambda each: -(each.detection_score or 0.0))


async def find(
    seat: Seat,
    segmenter: ModelSpec,
    embedding: Embedding,
    request: TextRequest,
    sought: Sequence[RewrittenPhrase],
    picture: Picture,
    omissions: Omissions,
) -> list[Proposal]:
    """Masks of what the phrases name, from a model that segments by text, the best first."""
    query = TextQuery(
        embedding,
        tuple(each.phrase for each in sought),
        segmenter.family.box_threshold if request.box_threshold is None else request.box_threshold,
        _exemplars(request, picture),
    )
    finds = await seat.ask(SEGMENT_TEXT, segmenter, query)
    nms_iou = 1.0 if request.box_nms_iou is None else request.box_nms_iou
    kept = _without_duplicates([(each.box, each.score or 0.0, each.phrase_index) for each in finds], nms_iou)
    proposals = []
    for index, each in enumerate(finds):
        phrase = sought[each.phrase_index]
        if index in kept:
            box = clip(each.box, picture)
            proposals.append(
                Proposal(
                    phrase.prompt_index,
                    phrase.phrase,
                    each.score,
                    box,
                    0.0,
                    embedding=each.embedding,
                    logits=each.logits,
                )
            )
        else:
            omissions.add(OmissionReason.DUPLICATE, phrase.prompt_index)
    return sorted(proposals, key=lambda each: -(each.detection_score or 0.0))


def as_written(phrases: Sequence[str]) -> tuple[RewrittenPhrase, ...]:
    """What is looked for when nothing is rewritten."""
    return tuple(RewrittenPhrase(phrase, index) for index, phrase in enumerate(phrases))


def distinct(sought: Sequence[RewrittenPhrase], omissions: Omissions) -> tuple[RewrittenPhrase, ...]:
    """Of phrases that read alike the first, so that no find comes twice; the others are told by name."""
    first: dict[str, RewrittenPhrase] = {}
    for each in sought:
        kept = first.setdefault(reading(each.phrase), each)
        if kept.prompt_index != each.prompt_index:
            omissions.same(each.prompt_index, kept.prompt_index)
    return tuple(first.values())


def _exemplars(request: TextRequest, picture: Picture) -> tuple[Exemplar, ...]:
    clipped = []
    for index, exemplar in enumerate(request.exemplars):
        box = clip(exemplar.box, picture)
        if box is None:
            size = f"{picture.width} x {picture.height}"
            raise InvalidRequestError.of(f"exemplars[{index}].box", f"expected a box that overlaps the {size} picture")
        clipped.append(Exemplar(box, exemplar.positive))
    return tuple(clipped)


def _without_duplicates(boxes: Sequence[tuple[Box, float, int]], nms_iou: float) -> set[int]:
    """Indices of the boxes that stay: (box, score, phrase) each; phrases do not compete with one another."""
    if nms_iou >= 1 or len(boxes) < 2:
        return set(range(len(boxes)))
    corners = np.array([(b.x_min, b.y_min, b.x_max, b.y_max) for b, _, _ in boxes])
    corners[:, 2:] -= corners[:, :2]  # OpenCV takes x, y, width, height.
    scores, phrases = [score for _, score, _ in boxes], [phrase for _, _, phrase in boxes]
    kept: Any = cv2.dnn.NMSBoxesBatched(corners.tolist(), scores, phrases, -1.0, nms_iou)
    return {int(index) for index in np.ravel(kept)}
