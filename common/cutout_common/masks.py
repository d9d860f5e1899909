"""The four encodings of a mask, both ways: COCO compressed RLE, PNG, packed bits, polygons with holes.

Masks are (H, W) bool, origin top left. What each encoding means is written in the contract's mask.proto.
"""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cutout_common.png import write_png
from cutout_common.rle import (
    BoolMask,
    paint_runs,
    rle_area,
    rle_box,
    rle_decode,
    rle_decode_part,
    rle_encode,
    rle_encode_part,
    rle_iou,
    rle_union,
    rle_window,
    union_runs,
)

__all__ = [
    "BoolMask",
    "bits_decode",
    "bits_encode",
    "bits_encode_part",
    "png_decode",
    "png_encode",
    "png_encode_part",
    "polygons_decode",
    "rle_area",
    "rle_box",
    "rle_decode",
    "rle_decode_part",
    "rle_encode",
    "rle_encode_part",
    "rle_iou",
    "rle_union",
    "rle_window",
]


def bits_encode(mask: BoolMask) -> bytes:
    """Packs a (H, W) mask: rows padded to bytes, the leftmost pixel in the most significant bit."""
    height, width = mask.shape
    return bits_encode_part(height, width, 0, 0, mask)


def bits_encode_part(height: int, width: int, top: int, left: int, part: BoolMask) -> bytes:
    """Packs a (height, width) mask that is inside nowhere but in a part of it, whose first pixel is (top, left)."""
    rows = np.zeros((height, (width + 7) // 8), np.uint8)
    rows[top : top + part.shape[0]] = _rows(width, left, part)
    return rows.tobytes()


def bits_decode(height: int, width: int, data: bytes) -> BoolMask:
    """The (height, width) mask that `bits_encode` packed.

    Raises:
        ValueError: The number of bytes is not height * ceil(width / 8).
    """
    stride = (width + 7) // 8
    if len(data) != height * stride:
        raise ValueError(f"expected {height} rows of {stride} bytes, got {len(data)} bytes")
    packed = np.frombuffer(data, np.uint8).reshape(height, stride)
    return np.unpackbits(packed, axis=1, count=width).view(np.bool_)


def png_encode(mask: BoolMask) -> bytes:
    """A 1-bit greyscale PNG file; white is inside."""
    height, width = mask.shape
    return png_encode_part(height, width, 0, 0, mask)


def png_encode_part(height: int, width: int, top: int, left: int, part: BoolMask) -> bytes:
    """The file of a (height, width) mask that is inside nowhere but in a part of it, from (top, left) on."""
    # Each row is behind its filter: 0, none.
    return write_png(height, width, top, np.pad(_rows(width, left, part), ((0, 0), (1, 0))))


def _rows(width: int, left: int, part: BoolMask) -> NDArray[np.uint8]:
    """(h, ceil(width / 8)) packed bits of a part's rows, which begin at column `left`."""
    rows = np.zeros((part.shape[0], (width + 7) // 8), np.uint8)
    bits = np.packbits(np.pad(part, ((0, 0), (left % 8, 0))), axis=1)
    rows[:, left // 8 : left // 8 + bits.shape[1]] = bits
    return rows


def png_decode(data: bytes) -> BoolMask:
    """The mask in a greyscale PNG file: whatever is nearer to white than to black.

    Raises:
        ValueError: It is no PNG file, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image if image.mode == "1" else image.convert("L").point(lambda v: 255 * (v > 127), "1"))
    except (OSError, SyntaxError, IndexError) as error:
        raise ValueError("expected a PNG file") from error


def polygons_decode(height: int, width: int, polygons: Iterable[Sequence[NDArray[np.floating]]]) -> BoolMask:
    """Fills polygons: a pixel is inside when its centre is.

    Args:
        height: Rows.
        width: Columns.
        polygons: The rings of each polygon, its outer boundary and its holes: (N, 2) vertices (x, y) in pixels; the
            last one joins the first. Inside is what an odd number of a polygon's rings surrounds; polygons may
            overlap. Centres on a left or upper edge are inside, those on a right or lower edge are not.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: A vertex is not finite, or a ring is not (N, 2).
    """
    numbered = [
        (i, np.asarray(ring, np.float64).reshape(-1, 2)) for i, polygon in enumerate(polygons) for ring in polygon
    ]
    numbered = [(i, ring) for i, ring in numbered if len(ring)]
    if not numbered:
        return np.zeros((height, width), np.bool_)
    sizes = np.array([len(ring) for _, ring in numbered])
    polygon = np.repeat([i for i, _ in numbered], sizes)
    vertices = np.concatenate([ring for _, ring in numbered])
    behind = np.arange(1, len(vertices) + 1)
    behind[np.cumsum(sizes) - 1] -= sizes
    (x0, y0), (x1, y1) = vertices.T, vertices[behind].T
    if not (np.isfinite(x0).all() and np.isfinite(y0).all()):
        raise ValueError("expected finite coordinates")
    # An edge crosses row r when y0 <= r + 0.5 < y1, either way round.
    spans = (np.minimum(y0, y1), np.maximum(y0, y1))
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in spans)
    rows_crossed = last - first
    edge = np.repeat(np.arange(len(first)), rows_crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows_crossed) - rows_crossed, rows_crossed) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    # Rings are closed, so that a polygon crosses every row an even number of times: two by two they bound a run.
    crossings = np.sort((polygon[edge] * height + row) * (width + 1) + column)
    row, column = np.divmod(crossings, width + 1)
    bounds = row % height * width + column
    return paint_runs(*union_runs([(bounds[::2], bounds[1::2])]), height * width).reshape(height, width)
