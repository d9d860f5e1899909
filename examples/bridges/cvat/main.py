"""CVAT's serverless functions, answered by a Cutout server: an interactor for clicks and boxes, a detector for labels.

CUTOUT_CLIENT_SERVER and CUTOUT_CLIENT_API_KEY say where the server is; CUTOUT_LABELS has the detector's labels, with
"; " between them. Nuclio calls `init_context` once for each worker, and `handler` for each request.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cutout_client import Client, CutoutError, Prompt, SegmentedObject


def init_context(context: Any) -> None:
    """Connects; nothing is loaded here."""
    address = os.environ.get("CUTOUT_CLIENT_SERVER", "host.docker.internal:50051")
    context.user_data.client = Client(address, api_key=os.environ.get("CUTOUT_CLIENT_API_KEY", ""))
    context.user_data.labels = [label for label in os.environ.get("CUTOUT_LABELS", "").split("; ") if label]


def handler(context: Any, event: Any) -> Any:
    """A picture with clicks is for the interactor, one without for the detector."""
    body = event.body if isinstance(event.body, dict) else json.loads(event.body)
    image = base64.b64decode(body["image"])
    client = context.user_data.client
    try:
        if "pos_points" in body:
            # The server knows a picture that it has just seen: the next click on it costs the decoder alone.
            return respond(context, interact(client, image, body), 200)
        return respond(context, detect(client, image, body, context.user_data.labels), 200)
    except (CutoutError, ValueError) as error:
        context.logger.error(str(error))  # noqa: TRY400 - Nuclio's logger has no other
        return respond(context, str(error), 500)


def interact(client: Client, image: bytes, body: Mapping[str, Any]) -> dict[str, Any]:
    """The mask (H, W) of what the points and the box describe, 255 inside."""
    points = [(x, y, 1) for x, y in body["pos_points"]] + [(x, y, 0) for x, y in body.get("neg_points") or ()]
    corners = np.ravel(body.get("obj_bbox") or ())  # [[x0, y0], [x1, y1]], or flat
    box = (*np.minimum(corners[:2], corners[2:]), *np.maximum(corners[:2], corners[2:])) if corners.size else None
    result = client.segment_points(image, Prompt(points=points, box=box), strategy="best")
    mask = result[0].mask if result.objects else np.zeros((result.image.height, result.image.width), bool)
    return {"mask": (mask * np.uint8(255)).tolist()}


def detect(client: Client, image: bytes, body: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """What the labels name: each with its outline, and its mask within its box."""
    threshold = body.get("threshold")
    result = client.segment_text(
        image, labels, box_threshold=threshold, mask_formats=["rle", "polygons"], polygon_tolerance=1.0
    )
    return [described(each) for each in result if each.polygons]


def described(each: SegmentedObject) -> dict[str, Any]:
    """An object as CVAT reads it; the mask's box comes behind it, its last corner within."""
    x_min, y_min, x_max, y_max = map(int, each.box)
    largest = max(each.polygons, key=lambda part: np.ptp(part.exterior, axis=0).prod())
    return {
        "confidence": str(each.score),
        "label": each.label,
        "type": "mask",
        "points": largest.exterior.ravel().tolist(),
        "mask": [*each.mask[y_min:y_max, x_min:x_max].ravel().astype(int).tolist(), x_min, y_min, x_max - 1, y_max - 1],
    }


def respond(context: Any, answer: object, status: int) -> Any:
    """JSON."""
    return context.Response(body=json.dumps(answer), headers={}, content_type="application/json", status_code=status)
