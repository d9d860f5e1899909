"""The backend of the image segmentation app of Grounding DINO and SAM 2: a picture and words in a form."""

from typing import Any

from cutout.v1 import image_pb2, model_service_pb2
from cutout.v1.segmentation_pb2 import SegmentationOptions
from cutout.v1.segmentation_service_pb2 import SegmentByTextRequest

from cutout_gateway.compat.answers import corners, score_of, text_of
from cutout_gateway.compat.fastapi import detail
from cutout_gateway.compat.interface import Ask, Interface, Route, ready, said
from cutout_gateway.compat.reading import PICTURE, RequestBody, from_form
from cutout_gateway.transcode import Payload


class Segment(RequestBody):
    """The form. Thresholds that are left out are the detector's own: those of Grounding DINO are the app's."""

    image: bytes
    text_prompt: str
    box_threshold: float | None = None
    text_threshold: float | None = None


def read_segment(payload: Payload) -> Ask:
    """`POST /segment`: SegmentByText, with an overlay."""
    form = from_form(Segment, payload, {"image"})
    request = SegmentByTextRequest(
        image=image_pb2.Image(content=form.image),
        phrases=[form.text_prompt],
        box_threshold=form.box_threshold,
        text_threshold=form.text_threshold,
        options=SegmentationOptions(overlay=SegmentationOptions.OVERLAY_FORMAT_PNG),
    )
    names = PICTURE | {"phrases": "text_prompt", "phrases[0]": "text_prompt"}
    return Ask.of("SegmentationService.SegmentByText", request, segment_answer, names=names)


def segment_answer(response: Any, request_id: str) -> dict[str, Any]:
    """Boxes, labels and scores, the surest first, and the picture with everything drawn on it."""
    found = response.segmentation.objects
    head = {"task_id": request_id, "status": "completed", "detected_objects": len(found)}
    if not found:
        nothing = {"message": "No objects detected matching the text prompt", "boxes": [], "labels": []}
        return head | nothing | {"visualization": None}
    return head | {
        "boxes": [corners(each.prompt_box if each.HasField("prompt_box") else each.box) for each in found],
        "labels": [each.label for each in found],
        "scores": [score_of(each) for each in found],
        "visualization": text_of(response.segmentation.overlay.data),
    }


def read_queues(_: Payload) -> Ask:
    """`GET /queue-status`: GetStatus, for operators."""
    return Ask.of("ModelService.GetStatus", model_service_pb2.GetStatusRequest(), queues_answer)


def queues_answer(response: Any, _: str) -> dict[str, int]:
    """What waits for devices. Both models take their turns in one queue, so both have its length."""
    waiting = sum(device.queued_jobs for device in response.devices)
    return {"grounding_dino_queue": waiting, "sam2_queue": waiting}


INTERFACE = Interface(
    "segmentation-app",
    (
        Route("POST", "/segment", read_segment),
        Route("GET", "/health", ready({"status": "healthy", "redis": "connected"})),
        Route("GET", "/queue-status", read_queues),
        Route("GET", "/", said({"message": "Image Segmentation API", "status": "running"})),
    ),
    detail,
)
