"""Prompts turned into messages. A task is a request that lacks its picture, which comes last."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from cutout.v1 import mask_pb2, segmentation_pb2, segmentation_service_pb2
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from cutout_client.keywords import choose
from cutout_client.messages import build, words
from cutout_client.prompts import (
    Boxes,
    EverythingOptions,
    Exemplar,
    Exemplars,
    Options,
    Prompt,
    Prompts,
    Regions,
    StreamOptions,
    TextOptions,
    Tiling,
)

Task = (
    segmentation_service_pb2.SegmentByTextRequest
    | segmentation_service_pb2.SegmentByBoxRequest
    | segmentation_service_pb2.SegmentByPointsRequest
    | segmentation_service_pb2.SegmentEverythingRequest
    | segmentation_service_pb2.AnalyzeImageRequest
)

_MASKS = Options.__annotations__.keys()
_TEXT = TextOptions.__annotations__.keys() - _MASKS
_EVERYTHING = EverythingOptions.__annotations__.keys() - _MASKS
# What each kind of prompt takes beyond `Options`.
OPTIONS = {
    "phrases": _TEXT,
    "boxes": frozenset[str](),
    "prompts": frozenset[str](),
    "everything": _EVERYTHING,
    "concepts": StreamOptions.__annotations__.keys() - _MASKS - _TEXT - _EVERYTHING,
}


def text_task(
    phrases: str | Sequence[str], *, detector: str, segmenter: str, options: Mapping[str, Any]
) -> segmentation_service_pb2.SegmentByTextRequest:
    """Finds what the phrases name.

    Raises:
        ValueError: An exemplar has not four numbers.
    """
    how, masks = _split(options, "phrases")
    exemplars = how.pop("exemplars", None)
    return build(
        segmentation_service_pb2.SegmentByTextRequest,
        phrases=words("phrases", phrases),
        exemplars=() if exemplars is None else _exemplars(exemplars),
        detector=detector,
        segmenter=segmenter,
        options=masks,
        **how,
    )


def box_task(boxes: Boxes, segmenter: str, options: Mapping[str, Any]) -> segmentation_service_pb2.SegmentByBoxRequest:
    """One object for each box; four numbers are one box.

    Raises:
        ValueError: A box has not four numbers.
    """
    _, masks = _split(options, "boxes")
    return build(
        segmentation_service_pb2.SegmentByBoxRequest,
        boxes=[_box(corners) for corners in rows(boxes, (4,), "boxes are x_min, y_min, x_max, y_max")],
        segmenter=segmenter,
        options=masks,
    )


def points_task(
    prompts: Prompts, segmenter: str, options: Mapping[str, Any]
) -> segmentation_service_pb2.SegmentByPointsRequest:
    """One object for each `Prompt`; bare points are one object's.

    Raises:
        ValueError: A point, a box or logits have another shape than they should.
    """
    _, masks = _split(options, "prompts")
    return build(
        segmentation_service_pb2.SegmentByPointsRequest,
        prompts=[object_prompt(prompt) for prompt in _as_prompts(prompts)],
        segmenter=segmenter,
        options=masks,
    )


def everything_task(*, segmenter: str, options: Mapping[str, Any]) -> segmentation_service_pb2.SegmentEverythingRequest:
    """Everything that looks like an object."""
    how, masks = _split(options, "everything")
    return build(segmentation_service_pb2.SegmentEverythingRequest, segmenter=segmenter, options=masks, **how)


def analyze_task(
    concepts: str | Sequence[str],
    *,
    regions: Regions | None,
    template: str,
    classifier: str,
    segmenter: str,
    options: Mapping[str, Any],
) -> segmentation_service_pb2.AnalyzeImageRequest:
    """What the picture and its regions show.

    Raises:
        ValueError: A region has neither four numbers nor two, or there is none in a list of them.
    """
    _, masks = _split(options, "boxes")
    if regions is not None and not len(regions):
        raise ValueError("regions is empty: leave it out to look at everything")
    return build(
        segmentation_service_pb2.AnalyzeImageRequest,
        concepts=words("concepts", concepts),
        regions=[
            segmentation_service_pb2.Region(box=_box(row))
            if len(row) == 4
            else segmentation_service_pb2.Region(point=mask_pb2.Point(x=row[0], y=row[1]))
            for row in rows(regions, (2, 4), "regions are x_min, y_min, x_max, y_max or x, y")
        ],
        template=template,
        classifier=classifier,
        segmenter=segmenter,
        options=masks,
    )


def any_task(
    *,
    phrases: str | Sequence[str] | None,
    boxes: Boxes | None,
    prompts: Prompts | None,
    concepts: str | Sequence[str] | None,
    detector: str,
    segmenter: str,
    options: StreamOptions,
) -> Task:
    """The task for at most one kind of prompt; everything when there is none.

    Raises:
        ValueError: There are several kinds, or a detector or an option that has no use with this one.
    """
    kinds = {"phrases": phrases, "boxes": boxes, "prompts": prompts, "concepts": concepts}
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of {', '.join(kinds)}, or none to segment everything; got {', '.join(given)}")
    kind = given[0] if given else "everything"
    others = frozenset().union(*OPTIONS.values()) - OPTIONS[kind]
    useless = [name for name, value in options.items() if name in others and not _is_default(value)]
    useless += ["detector"] if detector and kind != "phrases" else []
    if useless:
        known = ", ".join(sorted(OPTIONS[kind]) + list(_MASKS))
        raise ValueError(f"{', '.join(useless)} cannot be used with {kind}, where the options are {known}")
    wanted = {name: value for name, value in options.items() if name not in others}
    if phrases is not None:
        return text_task(phrases, detector=detector, segmenter=segmenter, options=wanted)
    if boxes is not None:
        return box_task(boxes, segmenter, wanted)
    if prompts is not None:
        return points_task(prompts, segmenter, wanted)
    if concepts is not None:
        given_here: Any = {"regions": None, "template": "", "classifier": ""}
        given_here |= {name: wanted.pop(name) for name in OPTIONS[kind] if name in wanted}
        return analyze_task(concepts, segmenter=segmenter, options=wanted, **given_here)
    return everything_task(segmenter=segmenter, options=wanted)


def method(task: Task) -> str:
    """The RPC that answers it in one message: SegmentByTextRequest goes to SegmentByText."""
    return task.DESCRIPTOR.name.removesuffix("Request")


def may_outgrow_a_message(task: Task) -> bool:
    """Whether the answer should come in pieces: RLE and outlines are small, pictures and logits are not."""
    files = {mask_pb2.MASK_FORMAT_PNG, mask_pb2.MASK_FORMAT_BITS}
    return bool(task.options.return_logits or task.options.overlay or files.intersection(task.options.mask_formats))


def mask_formats(names: Any) -> list[Any]:
    """The contract's values for names of mask formats.

    Raises:
        TypeError: They are no words.
        ValueError: There is no such format.
    """
    formats = words("mask_formats", names)
    return [_enum("mask_formats", mask_pb2.MaskFormat, "MASK_FORMAT_", name) for name in formats]


def rows(values: Any, lengths: tuple[int, ...], expected: str) -> list[list[float]]:
    """Numbers, or rows of numbers, as rows; rows may differ in length.

    Raises:
        ValueError: They are neither, or of other lengths.
    """

    def wrong(got: Any, how: str = "") -> ValueError:
        return ValueError(f"{expected}{how}; got {reprlib.repr(got)}")

    nested = values.tolist() if isinstance(values, np.ndarray) else (() if values is None else values)
    if isinstance(nested, str) or not isinstance(nested, Iterable):
        raise wrong(values)
    many = list(nested)
    if many and not hasattr(many[0], "__len__"):
        many = [many]
    for row in many:
        if not isinstance(row, Sequence | np.ndarray) or len(row) not in lengths:
            raise wrong(row)
    try:
        return [[float(number) for number in row] for row in many]
    except (TypeError, ValueError):
        raise wrong(values, ", in numbers") from None


def _split(options: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], segmentation_pb2.SegmentationOptions]:
    """What was given of a kind's own options, and the message of the others.

    Raises:
        TypeError: A value is of a type that its option does not take.
        ValueError: A word is none of those that an option takes, or a number out of its range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    own = {name: given.pop(name) for name in OPTIONS[kind] & given.keys()}
    return own, _options(given)


def _options(given: dict[str, Any]) -> segmentation_pb2.SegmentationOptions:
    message = segmentation_pb2.SegmentationOptions
    if "strategy" in given:
        given["strategy"] = _enum("strategy", message.Strategy, "STRATEGY_", given["strategy"])
    if "overlay" in given:
        given["overlay"] = _enum("overlay", message.OverlayFormat, "OVERLAY_FORMAT_", given["overlay"])
    if "tiling" in given:
        tiling = given["tiling"] if isinstance(given["tiling"], Tiling) else Tiling(given["tiling"])
        given["tiling"] = build(segmentation_pb2.Tiling, tile_size=tiling.tile_size, overlap=tiling.overlap)
    if "mask_formats" in given:
        given["mask_formats"] = mask_formats(given["mask_formats"])
    return build(message, **given)


def _enum(option: str, enum: EnumTypeWrapper, prefix: str, word: str) -> int:
    choose(option, word, [value.removeprefix(prefix).lower() for value, number in enum.items() if number])
    return int(enum.Value(f"{prefix}{word.upper()}"))


def _as_prompts(prompts: Prompts) -> Sequence[Prompt]:
    if isinstance(prompts, Prompt):
        return [prompts]
    if isinstance(prompts, Sequence) and any(isinstance(prompt, Prompt) for prompt in prompts):
        if not all(isinstance(prompt, Prompt) for prompt in prompts):
            raise ValueError("prompts are either Prompt objects or the points of one object, not both")
        return prompts  # type: ignore[return-value]  # just looked
    return [Prompt(points=prompts)]  # type: ignore[arg-type]  # the points of one object


def object_prompt(prompt: Prompt) -> segmentation_service_pb2.ObjectPrompt:
    """One object's prompt.

    Raises:
        ValueError: A point, the box or the logits have another shape than they should.
    """
    message = segmentation_service_pb2.ObjectPrompt()
    for x, y, *label in rows(
        prompt.points, (2, 3), "points are x, y or x, y, label, and those of several objects a Prompt each"
    ):
        if label and label[0] not in {0, 1}:
            raise ValueError(f"a point's label is 1 (inside) or 0 (outside), not {label[0]:g}")
        message.points.add(x=x, y=y, label=int(label[0]) if label else None)
    if prompt.box is not None:
        (corners,) = rows(prompt.box, (4,), "a prompt's box is x_min, y_min, x_max, y_max")
        message.box.CopyFrom(_box(corners))
    if prompt.logits is not None:
        values = np.asarray(prompt.logits, "<f4")
        if values.ndim != 2:
            raise ValueError(f"logits are (height, width), not {values.shape}")
        height, width = values.shape
        message.logits.CopyFrom(mask_pb2.LowResLogits(height=height, width=width, data=values.tobytes()))
    return message


def _is_default(value: object) -> bool:
    return value is None or value is False or (isinstance(value, str) and not value)


def _exemplars(given: Exemplars) -> list[segmentation_service_pb2.Exemplar]:
    expected = "an exemplar's box is x_min, y_min, x_max, y_max"
    listed: Any = [given] if isinstance(given, Exemplar) else given
    if not any(isinstance(each, Exemplar) for each in listed):
        listed = rows(listed, (4,), expected)
    exemplars = [each if isinstance(each, Exemplar) else Exemplar(each) for each in listed]
    return [
        segmentation_service_pb2.Exemplar(box=_box(corners), negative=each.negative)
        for each in exemplars
        for corners in rows(each.box, (4,), expected)
    ]


def _box(corners: Sequence[float]) -> mask_pb2.Box:
    x_min, y_min, x_max, y_max = corners
    return mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
