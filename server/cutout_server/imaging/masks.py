"""What becomes of masks between the model and the wire: cleaning, measuring, encoding."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from cutout_common import masks as codec
from cutout_server.imaging.outlines import polygons
from cutout_server.imaging.simplify import simplified
from cutout_server.types import (
    LOW_RES,
    BitMask,
    BoolMask,
    Box,
    EncodedMask,
    Logits,
    MaskFormat,
    MaskPatch,
    Options,
    PngMask,
    PolygonMask,
    RgbImage,
    Rle,
)
from numpy.typing import NDArray

__all__ = [
    "area",
    "clean",
    "crop",
    "encode",
    "from_rle",
    "low_res",
    "nbytes",
    "paste",
    "polygons",
    "stability_score",
    "tight_box",
    "to_rle",
    "union",
]


def crop(pixels: RgbImage, box: Box) -> RgbImage:
    """The part of a picture inside a box of whole pixels: a view."""
    return pixels[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)]


def to_rle(patch: MaskPatch) -> Rle:
    """Encodes a mask."""
    return Rle(patch.height, patch.width, codec.rle_encode_part(*patch.place, patch.inside))


def from_rle(rle: Rle) -> MaskPatch:
    """The mask, of which its tight box is held."""
    return MaskPatch(rle.height, rle.width, *codec.rle_decode_part(rle.height, rle.width, rle.counts))


def area(rle: Rle) -> int:
    """Pixels inside."""
    return codec.rle_area(rle.height, rle.width, rle.counts)


def tight_box(rle: Rle) -> Box | None:
    """The smallest box of whole pixels around a mask; None when it is empty."""
    box = codec.rle_box(rle.height, rle.width, rle.counts)
    return Box(*map(float, box)) if box else None


def union(rles: Sequence[Rle]) -> Rle:
    """What is inside any of the masks: at least one, all of one size."""
    first = rles[0]
    return Rle(first.height, first.width, codec.rle_union(first.height, first.width, [rle.counts for rle in rles]))


def encode(rle: Rle, mask_format: MaskFormat, options: Options) -> EncodedMask:
    """Writes a mask in the format that a caller asked for; each gives it back exactly, but for simplified polygons."""
    match mask_format:
        case MaskFormat.RLE:
            return rle
        case MaskFormat.PNG:
            return _png(from_rle(rle))
        case MaskFormat.BITS:
            return _bits(from_rle(rle))
        case MaskFormat.POLYGONS:
            return simplified(polygons(from_rle(rle)), options.polygon_tolerance, options.polygon_max_vertices)


def nbytes(mask: EncodedMask) -> int:
    """About how many bytes it takes on the wire, or fewer."""
    if isinstance(mask, Rle):
        return len(mask.counts)
    if isinstance(mask, PolygonMask):
        return sum(ring.nbytes for each in mask.polygons for ring in (each.exterior, *each.holes))
    return len(mask.data)


def clean(patch: MaskPatch, max_hole_area: int, min_part_area: int) -> MaskPatch:
    """Fills small holes, then removes small parts.

    Both are 8-connected, as in segment-anything's `remove_small_regions`. Unlike there, only what the mask encloses is
    a hole, however small the background is; and the largest part always stays.

    Args:
        patch: The mask.
        max_hole_area: Holes of at most this many pixels are filled.
        min_part_area: Parts of fewer pixels are removed.

    Returns:
        The given mask itself when there was nothing to do.
    """
    if max_hole_area < 1 and min_part_area < 2:
        return patch
    tight = patch.tightened()
    part = tight.inside
    if not part.size:
        return patch
    if max_hole_area >= 1:
        # With a margin, everything that is open to the outside is one component, and the others are holes.
        labels, areas = _components(np.pad(~part, 1, constant_values=True))
        fill = areas <= max_hole_area
        fill[[0, labels[0, 0]]] = False
        if fill.any():
            part = part | fill[labels[1:-1, 1:-1]]
    if min_part_area >= 2:
        labels, areas = _components(part)
        keep = areas >= min_part_area
        keep[1 + np.argmax(areas[1:])] = True
        if not keep[1:].all():
            keep[0] = False
            part = keep[labels]
    return replace(tight, inside=part)


def paste(rle: Rle, left: int, top: int, height: int, width: int) -> Rle:
    """The mask of a crop as a mask of the whole picture.

    Args:
        rle: Of the crop.
        left: The crop's first column.
        top: Its first row.
        height: Of the picture.
        width: Likewise.
    """
    patch = from_rle(rle)
    return to_rle(MaskPatch(height, width, top + patch.top, left + patch.left, patch.inside))


def low_res(logits: Logits, max_logit: float) -> Logits:
    """(h, w) logits as callers get them: 256 x 256, in [-max_logit, max_logit]."""
    if logits.shape != (LOW_RES, LOW_RES):
        logits = cv2.resize(logits, (LOW_RES, LOW_RES), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.clip(logits, -max_logit, max_logit)


def stability_score(logits: Logits, threshold: float, offset: float = 1.0) -> float:
    """IoU between the masks at thresholds raised and lowered by `offset` (Kirillov et al. 2023, section 5).

    Args:
        logits: (H, W).
        threshold: Logits above this are inside.
        offset: By how much it is raised and lowered.

    Returns:
        In [0, 1]; 0 when nothing is above the lowered threshold.
    """
    low = np.count_nonzero(logits > threshold - offset)
    return np.count_nonzero(logits > threshold + offset) / low if low else 0.0


def _png(patch: MaskPatch) -> PngMask:
    return PngMask(codec.png_encode_part(*patch.place, patch.inside))


def _bits(patch: MaskPatch) -> BitMask:
    return BitMask(patch.height, patch.width, codec.bits_encode_part(*patch.place, patch.inside))


def _components(mask: BoolMask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(H, W) labels of the 8-connected parts, 0 for none, and the pixels of each label."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    return labels.astype(np.int32, copy=False), stats[:, cv2.CC_STAT_AREA].astype(np.int32)
