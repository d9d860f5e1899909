"""A machine learning backend for Label Studio: smart rectangles, key points and words become brush strokes or polygons.

https://labelstud.io/guide/ml_create describes the requests.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from cutout_common import __version__

from cutout_client.bridges.label_config import BRUSH, POLYGON, Target, read_target
from cutout_client.bridges.task_pictures import Host, TaskPictures
from cutout_client.client import Client
from cutout_client.exports.label_studio import brush_rle
from cutout_client.exports.lines import line_of
from cutout_client.images import UploadedImage
from cutout_client.objects import SegmentedObject, mask_of
from cutout_client.prompts import Box, Options, Prompt
from cutout_client.results import Segmentation

Json = dict[str, Any]
VERSION = f"cutout-{__version__}"
KINDS = {"auto": (BRUSH, POLYGON), "brush": (BRUSH,), "polygons": (POLYGON,)}


class LabelStudioBackend:
    """Answers Label Studio's requests by those of a Cutout server.

    Args:
        client: Of the server.
        output: "brush", "polygons", or "auto" for what the project's interface has, brushes first.
        host: Where Label Studio is. Default: where it said so at setup.
        segmenter: Name of the model that cuts out. Default: the server's.
        detector: Name of the model that finds what words name. Default: the server's.
        polygon_tolerance: How far polygons may leave the outline to have fewer vertices, in pixels.
    """

    def __init__(
        self,
        client: Client,
        *,
        output: str = "auto",
        host: Host | None = None,
        segmenter: str = "",
        detector: str = "",
        polygon_tolerance: float = 1.0,
    ) -> None:
        self._client = client
        self._kinds = KINDS[output]
        self._host = host
        self._segmenter = segmenter
        self._detector = detector
        self._polygons: Options = {"mask_formats": ["rle", "polygons"], "polygon_tolerance": polygon_tolerance}
        self._pictures = TaskPictures(client)
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}

    def health(self) -> Json:
        """Whether masks can be made now."""
        return {"status": "UP" if self._client.health() == "serving" else "DOWN", "model_class": "Cutout"}

    def setup(self, request: Mapping[str, Any]) -> Json:
        """Takes note of where a project's Label Studio is.

        Raises:
            ValueError: The project's interface takes no masks.
        """
        if schema := request.get("schema"):
            read_target(schema, self._kinds)
        host = Host(str(request.get("hostname") or ""), str(request.get("access_token") or ""))
        with self._lock:
            self._hosts[_project(request)] = host
        return {"model_version": VERSION}

    def predict(self, request: Mapping[str, Any]) -> Json:
        """One prediction for each task: what the smart regions of its context mean, or else what its labels name.

        Raises:
            ValueError: The request lacks something, or a picture cannot be fetched.
            CutoutError: The server says no.
        """
        target = read_target(str(request.get("label_config") or ""), self._kinds)
        with self._lock:
            host = self._host or self._hosts.get(_project(request), Host())
        context = (request.get("params") or {}).get("context") or request.get("context") or {}
        regions = [region for region in context.get("result") or () if "value" in region]
        results = [self._task(task, target, regions, host) for task in request.get("tasks") or ()]
        return {"results": results, "model_version": VERSION}

    def _task(self, task: Mapping[str, Any], target: Target, regions: Sequence[Json], host: Host) -> Json:
        picture = (task.get("data") or {}).get(target.field)
        if not isinstance(picture, str):
            raise ValueError(f"tasks: data.{target.field} must be the address of a picture")  # noqa: TRY004 - a request's
        gesture = Gesture.read(regions)
        if regions and gesture.words == ():
            return {"result": [], "score": 0.0, "model_version": VERSION}  # of a kind that says nothing to us
        result = self._pictures.ask(host, picture, lambda stored: self._segment(stored, gesture, target))
        label = gesture.label if gesture.words is None else ""
        answers = [answer for each in result for answer in _regions(each, result, target, label)]
        score = max((each.score for each in result), default=0.0)
        return {"result": answers, "score": score, "model_version": ", ".join(result.models)}

    def _segment(self, stored: UploadedImage, gesture: "Gesture", target: Target) -> Segmentation:
        options: Options = self._polygons if target.kind == POLYGON else {"mask_formats": ["rle"]}
        points = [(x * stored.width / 100, y * stored.height / 100, inside) for x, y, inside in gesture.points]
        boxes = [_in_pixels(box, stored) for box in gesture.boxes]
        if points:
            prompt = Prompt(points=points, box=boxes[-1] if boxes else None)
            return self._client.segment_points(stored, prompt, segmenter=self._segmenter, **options)
        if boxes:
            return self._client.segment_box(stored, boxes, segmenter=self._segmenter, **options)
        phrases = gesture.words or target.labels
        names: Json = {"detector": self._detector, "segmenter": self._segmenter}
        return self._client.segment_text(stored, phrases, **names, **options)


@dataclass(frozen=True)
class Gesture:
    """What was drawn and written into a picture, in percent of its size.

    Attributes:
        points: x, y and 1 for inside or 0 for outside.
        boxes: Rectangles.
        words: What to look for; None when nothing was drawn nor written.
        label: What was chosen for it.
    """

    points: tuple[tuple[float, float, int], ...]
    boxes: tuple[Box, ...]
    words: tuple[str, ...] | None
    label: str

    @classmethod
    def read(cls, regions: Sequence[Mapping[str, Any]]) -> "Gesture":
        """Reads regions; those of other kinds are none of ours.

        Raises:
            ValueError: One lacks its numbers.
        """
        points: list[tuple[float, float, int]] = []
        boxes: list[Box] = []
        words: list[str] = []
        label = ""
        for region in regions:
            kind, value = str(region.get("type", "")), region["value"]
            try:
                if kind.startswith("keypoint"):
                    inside = region.get("is_positive", value.get("is_positive", True))
                    points.append((float(value["x"]), float(value["y"]), int(bool(inside))))
                elif kind.startswith("rectangle"):
                    x, y = float(value["x"]), float(value["y"])
                    boxes.append(Box(x, y, x + float(value["width"]), y + float(value["height"])))
                elif kind == "textarea":
                    words += [value["text"]] if isinstance(value["text"], str) else value["text"]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"context.result: a {kind} lacks {error}") from error
            label = next(iter(value.get(kind) or ()), label) if kind.endswith("labels") else label
        return cls(tuple(points), tuple(boxes), None if points or boxes else tuple(words), label)


def _in_pixels(box: Box, stored: UploadedImage) -> tuple[float, ...]:
    x, y = stored.width / 100, stored.height / 100
    return box.x_min * x, box.y_min * y, box.x_max * x, box.y_max * y


def _regions(each: SegmentedObject, result: Segmentation, target: Target, label: str) -> list[Json]:
    """An object as the regions that show it: one brush stroke, or a polygon for each of its parts."""
    width, height = result.image.width, result.image.height
    values: list[Json] = []
    if target.kind == BRUSH:
        values.append({"format": "rle", "rle": brush_rle(mask_of(each))})
    else:
        percent = [100 / width, 100 / height]
        values += [{"points": (line_of(part) * percent).tolist(), "closed": True} for part in each.polygons]
    kind = target.kind.lower()
    common = {"from_name": target.from_name, "to_name": target.to_name, "type": kind, "score": each.score}
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    labels = {kind: [target.label(label or each.label)]}
    return [{"id": uuid4().hex[:10], **common, **size, "value": value | labels} for value in values]


def _project(request: Mapping[str, Any]) -> str:
    """Such as "7" of "7.1624359512"."""
    return str(request.get("project") or "").split(".", maxsplit=1)[0]
