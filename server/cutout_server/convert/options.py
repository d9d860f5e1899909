"""A request's options to domain types: what is to be made of the masks, and how the picture is cut into tiles."""

from collections.abc import Sequence
from typing import Any

from cutout.v1 import mask_pb2, segmentation_pb2
from google.protobuf.message import Message

from cutout_server.convert.checks import Checker
from cutout_server.types import MaskFormat, Options, OverlayFormat, Strategy, Tiling

MAX_LOGIT = 32.0
MAX_TOLERANCE = 256.0
MIN_VERTICES = 4
MIN_TILE_SIZE = 256
MAX_TILE_SIZE = 4096
MIN_OVERLAP = 0.05
MAX_OVERLAP = 0.5

STRATEGIES = {
    segmentation_pb2.SegmentationOptions.STRATEGY_UNSPECIFIED: Strategy.ALL,
    segmentation_pb2.SegmentationOptions.STRATEGY_ALL: Strategy.ALL,
    segmentation_pb2.SegmentationOptions.STRATEGY_BEST: Strategy.BEST,
    segmentation_pb2.SegmentationOptions.STRATEGY_LARGEST: Strategy.LARGEST,
    segmentation_pb2.SegmentationOptions.STRATEGY_MERGE: Strategy.MERGE,
}
MASK_FORMATS = {
    mask_pb2.MASK_FORMAT_UNSPECIFIED: MaskFormat.RLE,
    mask_pb2.MASK_FORMAT_RLE: MaskFormat.RLE,
    mask_pb2.MASK_FORMAT_PNG: MaskFormat.PNG,
    mask_pb2.MASK_FORMAT_BITS: MaskFormat.BITS,
    mask_pb2.MASK_FORMAT_POLYGONS: MaskFormat.POLYGONS,
}
OVERLAY_FORMATS = {
    segmentation_pb2.SegmentationOptions.OVERLAY_FORMAT_UNSPECIFIED: None,
    segmentation_pb2.SegmentationOptions.OVERLAY_FORMAT_PNG: OverlayFormat.PNG,
    segmentation_pb2.SegmentationOptions.OVERLAY_FORMAT_JPEG: OverlayFormat.JPEG,
    segmentation_pb2.SegmentationOptions.OVERLAY_FORMAT_PLAIN: OverlayFormat.PNG,
}


def read_options(
    check: Checker,
    message: segmentation_pb2.SegmentationOptions,
    max_objects: int,
    default_formats: tuple[MaskFormat, ...],
) -> Options:
    """What is to be made of the masks.

    Args:
        check: Notes what is wrong.
        message: The options.
        max_objects: The operator's bound, which holds where the options set none.
        default_formats: For options that name no format of masks.
    """
    check.require(
        message.max_objects <= max_objects,
        "options.max_objects",
        f"expected at most {max_objects}, got {message.max_objects}",
    )
    formats = read_mask_formats(check, message.mask_formats) or default_formats
    return Options(
        multimask=message.multimask,
        strategy=check.choice(message.strategy, STRATEGIES, "options.strategy"),
        mask_formats=formats,
        overlay=check.choice(message.overlay, OVERLAY_FORMATS, "options.overlay"),
        draw=message.overlay != segmentation_pb2.SegmentationOptions.OVERLAY_FORMAT_PLAIN,
        return_logits=message.return_logits,
        mask_threshold=read_mask_threshold(check, message),
        min_area=message.min_area,
        max_hole_area=message.max_hole_area,
        min_part_area=message.min_part_area,
        nms_iou=read_nms_iou(check, message, "nms_iou", "options."),
        max_objects=message.max_objects or max_objects,
        tiling=_tiling(check, message) if message.HasField("tiling") else None,
        **_polygons(check, message, formats),
    )


def read_mask_formats(check: Checker, values: Sequence[int]) -> tuple[MaskFormat, ...]:
    """The options' formats of masks; none if they name none."""
    formats = tuple(
        check.choice(value, MASK_FORMATS, f"options.mask_formats[{index}]")
        for index, value in enumerate(values[: len(MASK_FORMATS)])
    )
    once = len(values) == len(formats) == len(set(formats))
    check.require(once, "options.mask_formats", "expected each format at most once")
    return formats


def read_mask_threshold(check: Checker, message: Message) -> float:
    """The options' threshold of masks, on logits."""
    return check.optional(message, "mask_threshold", -MAX_LOGIT, MAX_LOGIT, "options.") or 0.0


def read_nms_iou(check: Checker, message: Message, field: str, path: str = "") -> float | None:
    """A bound on the overlap of duplicates, in (0, 1]; None when it is absent."""
    nms_iou = check.optional(message, field, 0, 1, path)
    check.require(nms_iou != 0, f"{path}{field}", "expected a number in (0, 1], got 0")
    return nms_iou


def check_tiled(check: Checker, message: Message, field: str) -> None:
    """Notes a field of a request that asks for tiles if it has a meaning in one part of the picture alone."""
    if message.options.HasField("tiling"):  # type: ignore[attr-defined]
        check.require(
            not getattr(message, field), field, "expected none with options.tiling: it is about one view of the picture"
        )


def _tiling(check: Checker, options: segmentation_pb2.SegmentationOptions) -> Tiling:
    """The tiles that the options ask for; how many they come to shows later."""
    size = options.tiling.tile_size or Tiling.tile_size
    check.require(
        MIN_TILE_SIZE <= size <= MAX_TILE_SIZE,
        "options.tiling.tile_size",
        f"expected {MIN_TILE_SIZE} to {MAX_TILE_SIZE}, got {size}",
    )
    check.require(
        not options.return_logits,
        "options.return_logits",
        "expected false with options.tiling: the logits of a tile are no prompt for the picture",
    )
    overlap = check.optional(options.tiling, "overlap", MIN_OVERLAP, MAX_OVERLAP, "options.tiling.")
    return Tiling(size, Tiling.overlap if overlap is None else overlap)


def _polygons(
    check: Checker, options: segmentation_pb2.SegmentationOptions, formats: Sequence[MaskFormat]
) -> dict[str, Any]:
    """How exact polygons are to be, which has no meaning where none are asked for."""
    tolerance, most = options.polygon_tolerance, options.polygon_max_vertices
    # Written so that NaN is refused.
    check.require(
        0 <= tolerance <= MAX_TOLERANCE,
        "options.polygon_tolerance",
        f"expected a number in [0, {MAX_TOLERANCE:g}], got {tolerance:g}",
    )
    check.require(
        most == 0 or most >= MIN_VERTICES,
        "options.polygon_max_vertices",
        f"expected at least {MIN_VERTICES}, or 0 for any number, got {most}",
    )
    given: dict[str, Any] = {"polygon_tolerance": tolerance, "polygon_max_vertices": most}
    if MaskFormat.POLYGONS not in formats:
        for field, value in given.items():
            check.require(not value, f"options.{field}", "expected none unless options.mask_formats has polygons")
    return given
