"""Requests to domain types. Every bound that can be checked without the picture is checked here and nowhere else."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cutout.v1 import image_pb2, image_service_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as service_pb2

from cutout_server.convert.checks import Checker
from cutout_server.convert.inputs import MAX_POINTS, read_box, read_image, read_prompt, read_region
from cutout_server.convert.options import MAX_LOGIT, check_tiled, read_nms_iou, read_options
from cutout_server.errors import InvalidRequestError
from cutout_server.types import (
    AnalyzeRequest,
    EverythingRequest,
    Exemplar,
    MaskFormat,
    ObjectPrompt,
    Options,
    PromptFields,
    PromptsRequest,
    SegmentRequest,
    TextRequest,
)
from cutout_server.wording import MAX_PHRASE_LENGTH, split

MAX_EXEMPLARS = 64
DEFAULT_TEMPLATE = "a photo of a {}"
MAX_POINTS_PER_SIDE = 64
MAX_CROP_LAYERS = 3
MAX_CROP_OVERLAP = 0.9
MAX_CROP_POINTS_DOWNSCALE = 8
MIN_CHUNK_BYTES = 256 * 1024
MAX_CHUNK_BYTES = 1024 * 1024
DEFAULT_CHUNK_BYTES = 512 * 1024
# What RenderOverlay calls the fields of the request that it stands for.
OVERLAY_NAMES = {"image.content": "picture.data", "image.image_id": "image_id", "prompts[0].points": "points"}


@dataclass(frozen=True)
class RequestReader:
    """Reads requests within the operator's bounds.

    Every method raises InvalidRequestError with all violated fields. With `in_session`, image and segmenter are the
    session's and must be unset.
    """

    max_prompts: int
    max_objects: int

    def text(self, message: service_pb2.SegmentByTextRequest, *, in_session: bool = False) -> TextRequest:
        """SegmentByText."""
        check = Checker()
        phrases = []
        for index, entry in enumerate(message.phrases[: self.max_prompts]):
            most = 2 * MAX_PHRASE_LENGTH * self.max_prompts  # It may be a list of them.
            if len(entry) > most:
                check.refuse(f"phrases[{index}]", f"expected at most {most} characters, got {len(entry)}")
                continue
            words = split(entry)
            check.require(bool(words), f"phrases[{index}]", "expected words, got none")
            longest = max(map(len, words), default=0)
            check.require(
                longest <= MAX_PHRASE_LENGTH,
                f"phrases[{index}]",
                f"expected at most {MAX_PHRASE_LENGTH} characters a phrase, got {longest}",
            )
            phrases.extend(words)
        check.count("phrases", max(len(phrases), len(message.phrases)), self.max_prompts)
        check_tiled(check, message, "exemplars")
        request = TextRequest(
            phrases=tuple(phrases),
            box_threshold=check.optional(message, "box_threshold", 0, 1),
            text_threshold=check.optional(message, "text_threshold", 0, 1),
            detector=message.detector,
            exemplars=self._exemplars(check, message.exemplars),
            box_nms_iou=read_nms_iou(check, message, "box_nms_iou"),
            rewrite=message.rewrite,
            **self._common(check, message, in_session),
        )
        check.done()
        return request

    def box(self, message: service_pb2.SegmentByBoxRequest, *, in_session: bool = False) -> PromptsRequest:
        """SegmentByBox."""
        check = Checker()
        check.count("boxes", len(message.boxes), self.max_prompts)
        boxes = [read_box(check, box, f"boxes[{i}]") for i, box in enumerate(message.boxes[: self.max_prompts])]
        request = PromptsRequest(
            prompts=tuple(ObjectPrompt(box=box) for box in boxes),
            fields=PromptFields("boxes", box=""),
            **self._common(check, message, in_session),
        )
        check.done()
        return request

    def points(self, message: service_pb2.SegmentByPointsRequest, *, in_session: bool = False) -> PromptsRequest:
        """SegmentByPoints."""
        check = Checker()
        check.count("prompts", len(message.prompts), self.max_prompts)
        prompts = [read_prompt(check, p, f"prompts[{i}]") for i, p in enumerate(message.prompts[: self.max_prompts])]
        for index, prompt in enumerate(prompts):
            check.require(
                prompt.logits is None or not message.options.HasField("tiling"),
                f"prompts[{index}].logits",
                "expected none with options.tiling: they are about the whole picture",
            )
        request = PromptsRequest(prompts=tuple(prompts), **self._common(check, message, in_session))
        check.done()
        return request

    def everything(
        self, message: service_pb2.SegmentEverythingRequest, *, in_session: bool = False
    ) -> EverythingRequest:
        """SegmentEverything."""
        check = Checker()
        side, layers = message.points_per_side or EverythingRequest.points_per_side, message.crop_layers
        downscale = message.crop_points_downscale or 1
        for field, value, least, most in (
            ("points_per_side", side, 1, MAX_POINTS_PER_SIDE),
            ("crop_layers", layers, 0, MAX_CROP_LAYERS),
            ("crop_points_downscale", downscale, 1, MAX_CROP_POINTS_DOWNSCALE),
        ):
            check.require(value <= most, field, f"expected {least} to {most}, got {value}")
        if layers <= MAX_CROP_LAYERS:
            check.require(
                downscale**layers <= side,
                "crop_points_downscale",
                f"expected one that leaves a point in layer {layers}, got {side} // {downscale} ** {layers} a side",
            )
        check.require(
            not (layers and message.options.return_logits),
            "options.return_logits",
            "expected false with crop_layers: the logits of a crop are no prompt for the picture",
        )
        check_tiled(check, message, "crop_layers")
        offset = check.optional(message, "stability_offset", 0, MAX_LOGIT)
        check.require(offset != 0, "stability_offset", f"expected a number in (0, {MAX_LOGIT:g}], got 0")
        grid: dict[str, Any] = {
            "box_nms_iou": read_nms_iou(check, message, "box_nms_iou"),
            "stability_offset": offset,
            "crop_overlap": check.optional(message, "crop_overlap", 0, MAX_CROP_OVERLAP),
            "crop_nms_iou": read_nms_iou(check, message, "crop_nms_iou"),
        }
        request = EverythingRequest(
            points_per_side=side,
            predicted_iou_threshold=check.optional(message, "predicted_iou_threshold", 0, 1),
            stability_threshold=check.optional(message, "stability_threshold", 0, 1),
            crop_layers=layers,
            crop_points_downscale=downscale,
            **{field: value for field, value in grid.items() if value is not None},
            **self._common(check, message, in_session),
        )
        check.done()
        return request

    def analyze(self, message: service_pb2.AnalyzeImageRequest, *, in_session: bool = False) -> AnalyzeRequest:
        """AnalyzeImage."""
        check = Checker()
        check.count("concepts", len(message.concepts), self.max_prompts)
        concepts = message.concepts[: self.max_prompts]
        for index, concept in enumerate(concepts):
            length = len(concept) if concept.strip() else 0
            check.require(
                1 <= length <= MAX_PHRASE_LENGTH,
                f"concepts[{index}]",
                f"expected 1 to {MAX_PHRASE_LENGTH} characters, not all of them blank, got {len(concept)}",
            )
        check.require(len(set(concepts)) == len(concepts), "concepts", "expected each one once")
        template = message.template or DEFAULT_TEMPLATE
        check.require("{}" in template, "template", 'expected "{}" where the concept goes')
        check.require(
            len(template) <= MAX_PHRASE_LENGTH,
            "template",
            f"expected at most {MAX_PHRASE_LENGTH} characters, got {len(template)}",
        )
        most = self.max_prompts
        check.require(len(message.regions) <= most, "regions", f"expected at most {most}, got {len(message.regions)}")
        prompts = tuple(read_region(check, r, f"regions[{i}]") for i, r in enumerate(message.regions[:most]))
        common = self._common(check, message, in_session, (MaskFormat.RLE, MaskFormat.POLYGONS))
        check.done()
        fields = PromptFields("regions", point=".point")
        regions = PromptsRequest(prompts=prompts, fields=fields, **common) if prompts else EverythingRequest(**common)
        return AnalyzeRequest(tuple(concepts), template, message.classifier, regions)

    def one_of(self, message: Any, oneof: str, *, in_session: bool = False) -> SegmentRequest:
        """The one of these five that `message` holds."""
        kind = message.WhichOneof(oneof)
        if kind not in {"text", "box", "points", "everything", "analyze"}:
            raise InvalidRequestError.of(oneof, "expected one of text, box, points, everything, analyze, got none")
        request: SegmentRequest = getattr(self, kind)(getattr(message, kind), in_session=in_session)
        return request

    def overlay(self, message: image_service_pb2.RenderOverlayRequest) -> SegmentRequest:
        """RenderOverlay: the same as one of the four, said in fewer words."""
        check = Checker()
        check.require(
            message.HasField("picture") != bool(message.image_id),
            "picture",
            "expected either picture or image_id, got both or neither",
        )
        kinds = [kind for kind in ("phrases", "boxes", "points") if getattr(message, kind)]
        check.require(len(kinds) <= 1, "/".join(kinds), f"expected one kind of prompt, got {len(kinds)}")
        check.require(not message.detector or kinds == ["phrases"], "detector", "expected none without phrases")
        bounds = (("phrases", 1, self.max_prompts), ("boxes", 4, self.max_prompts), ("points", 2, MAX_POINTS))
        for field, step, most in bounds:
            numbers = len(getattr(message, field))
            check.require(numbers % step == 0, field, f"expected {step} numbers for each, got {numbers} in all")
            check.require(numbers <= step * most, field, f"expected at most {most}, got {numbers // step}")
        check.done()
        common: dict[str, Any] = {
            "image": image_pb2.Image(image_id=message.image_id)
            if message.image_id
            else image_pb2.Image(content=message.picture.data),
            "segmenter": message.segmenter,
            "options": segmentation_pb2.SegmentationOptions(
                overlay=segmentation_pb2.SegmentationOptions.OVERLAY_FORMAT_PNG
            ),
        }
        if message.phrases:
            return self.text(
                service_pb2.SegmentByTextRequest(phrases=message.phrases, detector=message.detector, **common)
            )
        if message.boxes:
            boxes = [
                mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
                for x_min, y_min, x_max, y_max in _groups(message.boxes, 4)
            ]
            return self.box(service_pb2.SegmentByBoxRequest(boxes=boxes, **common))
        if message.points:
            points = [mask_pb2.Point(x=x, y=y) for x, y in _groups(message.points, 2)]
            prompts = [service_pb2.ObjectPrompt(points=points)]
            return self.points(service_pb2.SegmentByPointsRequest(prompts=prompts, **common))
        return self.everything(service_pb2.SegmentEverythingRequest(**common))

    def _exemplars(self, check: Checker, messages: Sequence[service_pb2.Exemplar]) -> tuple[Exemplar, ...]:
        check.require(
            len(messages) <= MAX_EXEMPLARS, "exemplars", f"expected at most {MAX_EXEMPLARS}, got {len(messages)}"
        )
        return tuple(
            Exemplar(read_box(check, message.box, f"exemplars[{index}].box"), not message.negative)
            for index, message in enumerate(messages[:MAX_EXEMPLARS])
        )

    def _common(
        self,
        check: Checker,
        message: Any,
        in_session: bool,
        default_formats: tuple[MaskFormat, ...] = Options.mask_formats,
    ) -> dict[str, Any]:
        if in_session:
            check.require(not message.HasField("image"), "image", "expected none: the session has its picture")
            check.require(not message.segmenter, "segmenter", "expected none: the session has its segmenter")
        return {
            "image": None if in_session else read_image(check, message.image),
            "segmenter": message.segmenter,
            "options": read_options(check, message.options, self.max_objects, default_formats),
        }


def read_chunk_bytes(message: service_pb2.StreamSegmentationRequest) -> int:
    """StreamSegmentation's size of a chunk, in bytes."""
    size = message.chunk_bytes or DEFAULT_CHUNK_BYTES
    if not MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES:
        raise InvalidRequestError.of("chunk_bytes", f"expected {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES}, got {size}")
    return size


def _groups(numbers: Iterable[float], size: int) -> Iterator[tuple[float, ...]]:
    return zip(*[iter(numbers)] * size, strict=True)
