"""The pipeline of Stable Diffusion, CLIP and SAM: `/api/generate`, `/api/analyze`, and both at once."""

from functools import partial
from http import HTTPStatus
from typing import Any

from cutout.v1 import mask_pb2
from cutout.v1.generation_service_pb2 import GenerateImageRequest
from cutout.v1.segmentation_pb2 import SegmentationOptions
from cutout.v1.segmentation_service_pb2 import AnalyzeImageRequest, Region
from pydantic import field_validator

from cutout_gateway.compat.answers import rings, text_of
from cutout_gateway.compat.interface import Ask, Interface, Route
from cutout_gateway.compat.reading import INVALID, PICTURE, RequestBody, from_json, picture
from cutout_gateway.errors import invalid
from cutout_gateway.transcode import Payload

Place = list[float]
GENERATE = "GenerationService.GenerateImage"
_OPTIONS = SegmentationOptions(mask_formats=[mask_pb2.MASK_FORMAT_PNG, mask_pb2.MASK_FORMAT_POLYGONS])


class Generate(RequestBody):
    """The body of `/generate`."""

    prompt: Any

    @field_validator("prompt")
    @classmethod
    def _texts(cls, prompt: Any) -> Any:
        if isinstance(prompt, str) or (isinstance(prompt, list) and all(isinstance(each, str) for each in prompt)):
            return prompt
        raise ValueError("expected a text, or a list of texts")


class Analyze(RequestBody):
    """The body of `/analyze`; a place is [x, y] or [x1, y1, x2, y2]; without any, everything is cut out."""

    image: str
    texts: list[str]
    roi: list[Place] | None = None


class AdvancedGenerate(RequestBody):
    """The body of `/adv/generate`."""

    prompt: str
    texts: list[str]
    roi: list[Place] | None = None


def read_generate(payload: Payload) -> Ask:
    """`POST /api/generate`: GenerateImage."""
    prompt = from_json(Generate, payload).prompt
    one = isinstance(prompt, str)
    request = GenerateImageRequest(prompts=[prompt] if one else prompt)
    names = {"prompts": "prompt"} | ({"prompts[0]": "prompt"} if one else {})
    return Ask.of(GENERATE, request, partial(generate_answer, one), names=names)


def generate_answer(one: bool, response: Any, request_id: str) -> dict[str, Any]:
    """A picture, or a list of as many as there were prompts in a list."""
    pictures = [text_of(each.data) for each in response.images]
    return {"request_id": request_id, "generated_image": pictures[0] if one else pictures}


def read_analyze(payload: Payload) -> Ask:
    """`POST /api/analyze`: AnalyzeImage."""
    body = from_json(Analyze, payload)
    request = _analyze(body.texts, body.roi)
    request.image.CopyFrom(picture(body.image))
    answer = partial(analyze_answer, body.image)
    return Ask.of("SegmentationService.AnalyzeImage", request, answer, names=PICTURE | _NAMES)


def analyze_answer(image: str, response: Any, request_id: str) -> dict[str, Any]:
    """Concepts of the whole picture, and masks, scores and outlines of its regions."""
    answer = response.segmentation
    concepts = dict(zip(("concepts", "confidence_scores", "max_confidence_concept"), _concepts(answer), strict=True))
    masks = {"basic_segmentation": _masks(answer)}
    return {"request_id": request_id, "image": image, "clip_analysis": concepts, **masks}


def read_advanced(payload: Payload) -> Ask:
    """`POST /api/adv/generate`: GenerateImage, whose picture is analysed at once."""
    body = from_json(AdvancedGenerate, payload)
    request = GenerateImageRequest(prompts=[body.prompt], analyze=_analyze(body.texts, body.roi))
    names = {f"analyze.{name}": theirs for name, theirs in _NAMES.items()}
    return Ask.of(GENERATE, request, advanced_answer, names=names | {"prompts": "prompt", "prompts[0]": "prompt"})


def advanced_answer(response: Any, request_id: str) -> dict[str, Any]:
    """The picture, its concepts, and its regions with theirs."""
    [image] = response.images
    answer = image.segmentation
    whole = ("all_concepts", "all_confidence_scores", "global_confident_concept")
    part = ("concepts", "confidence_scores", "max_confident_concept")
    masks = _masks(answer)
    regions = [
        {
            "request_id": f"{request_id}/{index}",
            "clip_analysis": dict(zip(part, _concepts(found), strict=True)),
            "polygon": masks["polygons"][index],
        }
        for index, found in enumerate(answer.objects)
    ]
    return {
        "request_id": request_id,
        "generated_image": text_of(image.data),
        "clip_analysis": dict(zip(whole, _concepts(answer), strict=True)),
        "segmentation": masks | {"segmented_regions": regions},
    }


_NAMES = {"concepts": "texts", "regions": "roi"}


def _analyze(texts: list[str], roi: list[Place] | None) -> AnalyzeImageRequest:
    return AnalyzeImageRequest(concepts=texts, regions=map(_region, range(len(roi or ())), roi or ()), options=_OPTIONS)


def _region(index: int, place: Place) -> Region:
    match place:
        case [x, y]:
            return Region(point=mask_pb2.Point(x=x, y=y))
        case [x_min, y_min, x_max, y_max]:
            return Region(box=mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max))
    raise invalid(f"roi[{index}]", "expected [x, y] or [x1, y1, x2, y2]")


def _concepts(what: Any) -> tuple[list[str], list[float], str]:
    """The concepts in the caller's order, their scores, and the best of them."""
    ordered = sorted(what.concepts.scores, key=lambda each: each.concept_index)
    best = what.concepts.scores[0].concept
    return [each.concept for each in ordered], [each.score for each in ordered], best


def _masks(answer: Any) -> dict[str, list[Any]]:
    return {
        "masks": [text_of(found.masks[0].png) for found in answer.objects],
        "iou_scores": [found.predicted_iou for found in answer.objects],
        "polygons": [rings(found.masks[1].polygons) for found in answer.objects],
    }


INTERFACE = Interface(
    "generate-analyze",
    (
        Route("POST", "/api/generate", read_generate, f"cutout.v1.{GENERATE}"),
        Route("POST", "/api/adv/generate", read_advanced, f"cutout.v1.{GENERATE}"),
        Route("POST", "/api/analyze", read_analyze),
    ),
    lambda status, text, violations: {"error": text},  # noqa: ARG005
    lambda status, _: HTTPStatus.BAD_REQUEST if status == INVALID else status,
)
