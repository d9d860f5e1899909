"""Prompts turned into messages. A task is a request that lacks its picture, which comes last."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cutout.v1 import mask_pb2, segmentation_pb2, segmentation_service_pb2
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from cutout_client.prompts import Boxes, Options, Prompt, Prompts, StreamOptions

Task = (
    segmentation_service_pb2.SegmentByTextRequest
    | segmentation_service_pb2.SegmentByBoxRequest
    | segmentation_service_pb2.SegmentByPointsRequest
    | segmentation_service_pb2.SegmentEverythingRequest
)

THRESHOLDS = {
    "box_threshold": "phrases",
    "text_threshold": "phrases",
    "points_per_side": "everything",
    "predicted_iou_threshold": "everything",
    "stability_threshold": "everything",
}


def text_task(
    phrases: str | Sequence[str],
    *,
    box_threshold: float | None,
    text_threshold: float | None,
    detector: str,
    segmenter: str,
    options: Options,
) -> segmentation_service_pb2.SegmentByTextRequest:
    """Finds what the phrases name."""
    return segmentation_service_pb2.SegmentByTextRequest(
        phrases=[phrases] if isinstance(phrases, str) else phrases,
        box_threshold=box_threshold,
        text_threshold=text_threshold,
        detector=detector,
        segmenter=segmenter,
        options=_options(options),
    )


def box_task(boxes: Boxes, segmenter: str, options: Options) -> segmentation_service_pb2.SegmentByBoxRequest:
    """One object for each box; four numbers are one box.

    Raises:
        ValueError: A box has not four numbers.
    """
    corners = rows(boxes, (4,), "boxes are x_min, y_min, x_max, y_max")
    return segmentation_service_pb2.SegmentByBoxRequest(
        boxes=[mask_pb2.Box(x_min=a, y_min=b, x_max=c, y_max=d) for a, b, c, d in corners],
        segmenter=segmenter,
        options=_options(options),
    )


def points_task(prompts: Prompts, segmenter: str, options: Options) -> segmentation_service_pb2.SegmentByPointsRequest:
    """One object for each `Prompt`; bare points are one object's.

    Raises:
        ValueError: A point, a box or logits have another shape than they should.
    """
    return segmentation_service_pb2.SegmentByPointsRequest(
        prompts=[_object_prompt(prompt) for prompt in _as_prompts(prompts)],
        segmenter=segmenter,
        options=_options(options),
    )


def everything_task(
    *,
    segmenter: str,
    points_per_side: int | None,
    predicted_iou_threshold: float | None,
    stability_threshold: float | None,
    options: Options,
) -> segmentation_service_pb2.SegmentEverythingRequest:
    """Everything that looks like an object."""
    return segmentation_service_pb2.SegmentEverythingRequest(
        segmenter=segmenter,
        points_per_side=points_per_side or 0,
        predicted_iou_threshold=predicted_iou_threshold,
        stability_threshold=stability_threshold,
        options=_options(options),
    )


def any_task(
    *,
    phrases: str | Sequence[str] | None,
    boxes: Boxes | None,
    prompts: Prompts | None,
    detector: str,
    segmenter: str,
    options: StreamOptions,
) -> Task:
    """The task for at most one kind of prompt; everything when there is none.

    Raises:
        ValueError: There are several kinds, or a detector or a threshold that has no use with this one.
    """
    kinds = {"phrases": phrases, "boxes": boxes, "prompts": prompts}
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of phrases, boxes and prompts, or none to segment everything; got {given}")
    kind = given[0] if given else "everything"
    thresholds: dict[str, Any] = {name: value for name, value in options.items() if name in THRESHOLDS}
    others: Any = {name: value for name, value in options.items() if name not in THRESHOLDS}
    useless = [name for name, value in thresholds.items() if value is not None and THRESHOLDS[name] != kind]
    if useless or (detector and kind != "phrases"):
        raise ValueError(f"{', '.join(useless or ['detector'])} cannot be used with {kind}")
    wanted = {name: thresholds.get(name) for name, user in THRESHOLDS.items() if user == kind}
    if phrases is not None:
        return text_task(phrases, detector=detector, segmenter=segmenter, options=others, **wanted)
    if boxes is not None:
        return box_task(boxes, segmenter, others)
    if prompts is not None:
        return points_task(prompts, segmenter, others)
    return everything_task(segmenter=segmenter, options=others, **wanted)


def method(task: Task) -> str:
    """The RPC that answers it in one message: SegmentByTextRequest goes to SegmentByText."""
    return task.DESCRIPTOR.name.removesuffix("Request")


def may_outgrow_a_message(task: Task) -> bool:
    """Whether the answer should come in pieces: RLE and outlines are small, pictures and logits are not."""
    files = {mask_pb2.MASK_FORMAT_PNG, mask_pb2.MASK_FORMAT_BITS}
    return bool(task.options.return_logits or task.options.overlay or files.intersection(task.options.mask_formats))


def rows(values: Any, lengths: tuple[int, ...], expected: str) -> list[list[float]]:
    """Numbers, or rows of numbers, as rows; rows may differ in length."""
    nested = values.tolist() if isinstance(values, np.ndarray) else (() if values is None else values)
    many = [nested] if nested and not hasattr(nested[0], "__len__") else nested
    if any(not hasattr(row, "__len__") or len(row) not in lengths for row in many):
        raise ValueError(f"{expected}; got {values!r}")
    return [[float(number) for number in row] for row in many]


def _options(options: Mapping[str, Any]) -> segmentation_pb2.SegmentationOptions:
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(Options.__annotations__)}")
    message = segmentation_pb2.SegmentationOptions
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if "strategy" in given:
        given["strategy"] = _enum(message.Strategy, "STRATEGY_", given["strategy"])
    if "overlay" in given:
        given["overlay"] = _enum(message.OverlayFormat, "OVERLAY_FORMAT_", given["overlay"])
    if "mask_formats" in given:
        formats = given["mask_formats"]
        names = [formats] if isinstance(formats, str) else formats
        given["mask_formats"] = [_enum(mask_pb2.MaskFormat, "MASK_FORMAT_", name) for name in names]
    return message(**given)


def _enum(enum: EnumTypeWrapper, prefix: str, name: str) -> int:
    names = [value.removeprefix(prefix).lower() for value, number in enum.items() if number]
    if name not in names:
        raise ValueError(f"{prefix.rstrip('_').lower()} must be one of {', '.join(names)}, not {name!r}")
    return int(enum.Value(f"{prefix}{name.upper()}"))


def _as_prompts(prompts: Prompts) -> Sequence[Prompt]:
    if isinstance(prompts, Prompt):
        return [prompts]
    if not isinstance(prompts, np.ndarray) and any(isinstance(prompt, Prompt) for prompt in prompts):
        if not all(isinstance(prompt, Prompt) for prompt in prompts):
            raise ValueError("prompts are either Prompt objects or the points of one object, not both")
        return prompts  # type: ignore[return-value]  # just looked
    return [Prompt(points=prompts)]  # type: ignore[arg-type]  # the points of one object


def _object_prompt(prompt: Prompt) -> segmentation_service_pb2.ObjectPrompt:
    message = segmentation_service_pb2.ObjectPrompt()
    for x, y, *label in rows(prompt.points, (2, 3), "points are x, y or x, y, label"):
        if label and label[0] not in {0, 1}:
            raise ValueError(f"a point's label is 1 (inside) or 0 (outside), not {label[0]:g}")
        message.points.add(x=x, y=y, label=int(label[0]) if label else None)
    if prompt.box is not None:
        ((a, b, c, d),) = rows(prompt.box, (4,), "a prompt's box is x_min, y_min, x_max, y_max")
        message.box.CopyFrom(mask_pb2.Box(x_min=a, y_min=b, x_max=c, y_max=d))
    if prompt.logits is not None:
        values = np.asarray(prompt.logits, "<f4")
        if values.ndim != 2:
            raise ValueError(f"logits are (height, width), not {values.shape}")
        height, width = values.shape
        message.logits.CopyFrom(mask_pb2.LowResLogits(height=height, width=width, data=values.tobytes()))
    return message
