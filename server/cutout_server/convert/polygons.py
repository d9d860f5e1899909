"""How exact polygons are to be."""

from collections.abc import Sequence
from typing import Any

from cutout.v1 import segmentation_pb2

from cutout_server.convert.checks import Checker
from cutout_server.types import MaskFormat

MAX_TOLERANCE = 256.0
MIN_VERTICES = 4


def read_polygon_options(
    check: Checker, options: segmentation_pb2.SegmentationOptions, formats: Sequence[MaskFormat]
) -> dict[str, Any]:
    """Those of the options' fields that are about polygons, which have no meaning without any."""
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
