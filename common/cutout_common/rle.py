"""COCO compressed run-length encoding, in NumPy: what pycocotools reads and writes, byte for byte.

A mask is read column after column; `counts` holds the lengths of its runs in turn, outside first. Each length from the
fourth on is written as its difference to the one two before, in groups of five bits, lowest first, as characters from
"0" on (rleToString in the COCO API). Here a mask's inside is two sorted arrays in between: where its runs
start and end.

pycocotools trusts what it is given and reads and writes out of bounds when the lengths do not fit the size; these
functions check them first.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

BoolMask = NDArray[np.bool_]
Positions = NDArray[np.int64]
# Where the runs of a mask's inside start and end: sorted, not empty, not touching.
Runs = tuple[Positions, Positions]

_MAX_GROUPS = 7  # Of 5 bits: more than the length of any run needs.


def rle_encode(mask: BoolMask) -> bytes:
    """Encodes a (H, W) mask as COCO compressed counts."""
    height, width = mask.shape
    return rle_encode_part(height, width, 0, 0, mask)


def rle_encode_part(height: int, width: int, top: int, left: int, part: BoolMask) -> bytes:
    """Encodes a (height, width) mask that is inside nowhere but in a part of it, whose first pixel is (top, left)."""
    return _write(*_runs_of(np.asarray(part, np.bool_), height, top, left), height * width)


def rle_decode(height: int, width: int, counts: bytes | str) -> BoolMask:
    """Decodes COCO compressed counts to a (height, width) mask.

    Raises:
        ValueError: The counts are not well formed, or do not add up to the size.
    """
    top, left, part = rle_decode_part(height, width, counts)
    mask = np.zeros((height, width), np.bool_)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return mask


def rle_decode_part(height: int, width: int, counts: bytes | str) -> tuple[int, int, BoolMask]:
    """First row, first column and pixels of the smallest box around a mask; (0, 0) pixels of an empty one.

    Raises:
        ValueError: As `rle_decode`.
    """
    starts, ends = rle_runs(height, width, counts)
    box = _box_of(starts, ends, height)
    if box is None:
        return 0, 0, np.zeros((0, 0), np.bool_)
    x_min, y_min, x_max, y_max = box
    # Only the box is painted; a run goes over several columns only if the box has the full height.
    columns, rows = x_max - x_min, y_max - y_min
    shift = (starts // height) * (height - rows) + y_min + x_min * rows
    inside = paint_runs(starts - shift, ends - shift, columns * rows)
    return y_min, x_min, inside.reshape(columns, rows).T


def rle_area(height: int, width: int, counts: bytes | str) -> int:
    """Pixels inside.

    Raises:
        ValueError: As `rle_decode`.
    """
    starts, ends = rle_runs(height, width, counts)
    return int((ends - starts).sum())


def rle_box(height: int, width: int, counts: bytes | str) -> tuple[int, int, int, int] | None:
    """The smallest box of whole pixels: x_min, y_min, x_max, y_max, the last two exclusive; None for an empty mask.

    Raises:
        ValueError: As `rle_decode`.
    """
    return _box_of(*rle_runs(height, width, counts), height)


def rle_union(height: int, width: int, masks: Iterable[bytes | str]) -> bytes:
    """Counts of what is inside any of the masks.

    Raises:
        ValueError: As `rle_decode`.
    """
    runs = [rle_runs(height, width, counts) for counts in masks]
    return _write(*union_runs(runs), height * width)


def rle_window(height: int, width: int, counts: bytes | str, left: int, top: int, rows: int, columns: int) -> bytes:
    """Counts of what a window shows of a mask: a part of it, or the mask's place in something larger.

    Args:
        height: Of the mask.
        width: Likewise.
        counts: The mask.
        left: The window's first column, in the mask's pixels; may be negative.
        top: Its first row; likewise.
        rows: The window's height; what it shows beyond the mask is outside.
        columns: Its width.

    Raises:
        ValueError: As `rle_decode`.
    """
    starts, ends = rle_runs(height, width, counts)
    first = starts // height
    crossed = (ends - 1) // height - first + 1
    run = np.repeat(np.arange(len(starts)), crossed)
    column = np.arange(len(run)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[run]
    upper = np.clip(np.maximum(starts[run] - column * height, 0) - top, 0, rows)
    lower = np.clip(np.minimum(ends[run] - column * height, height) - top, 0, rows)
    column -= left
    seen = (upper < lower) & (column >= 0) & (column < columns)
    shift = column[seen] * rows
    return _write(*union_runs([(upper[seen] + shift, lower[seen] + shift)]), rows * columns)


def rle_iou(
    height: int, width: int, masks: Sequence[bytes | str], others: Sequence[bytes | str]
) -> NDArray[np.float64]:
    """Intersection over union of each mask with each of the others; 0 for two empty ones.

    Returns:
        (len(masks), len(others)) in [0, 1].

    Raises:
        ValueError: As `rle_decode`.
    """
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    left, right = ([_canonical(height, width, counts) for counts in side] for side in (masks, others))
    return np.asarray(coco.iou(left, right, [0] * len(right)))


def rle_runs(height: int, width: int, counts: bytes | str) -> Runs:
    """Where the runs of the inside start and end, counted column after column.

    Raises:
        ValueError: As `rle_decode`.
    """
    lengths = _read(height, width, counts)
    bounds = np.cumsum(lengths)
    starts, ends = bounds[: len(lengths) // 2 * 2 : 2], bounds[1::2]
    return (starts, ends) if (lengths[1:] > 0).all() else union_runs([(starts, ends)])


def rle_lengths(height: int, width: int, counts: bytes | str) -> Positions:
    """The lengths of the runs in turn, outside first: the counts before they are compressed.

    Raises:
        ValueError: As `rle_decode`.
    """
    return _lengths_of(*rle_runs(height, width, counts), height * width)


def union_runs(runs: Sequence[Runs]) -> Runs:
    """The runs of what is inside any of the given ones, which may be empty, touch and overlap."""
    if not runs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts, ends = (np.concatenate(side) for side in zip(*runs, strict=True))
    full = starts < ends
    starts, ends = np.sort(starts[full]), np.sort(ends[full])
    # The i-th start opens a run if everything that was opened before has ended before.
    opens = np.ones(len(starts), np.bool_)
    np.greater(starts[1:], ends[:-1], out=opens[1:])
    return starts[opens], ends[np.roll(opens, -1)]


def paint_runs(starts: Positions, ends: Positions, size: int) -> NDArray[np.bool_]:
    """A line of `size` values that is True inside the runs."""
    lengths = _lengths_of(starts, ends, size)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _runs_of(mask: BoolMask, height: int, top: int, left: int) -> Runs:
    """Of a mask of that height, of which a part is given."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    top, left = top + int(rows[0]), left + int(columns[0])
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # Where something begins or ends on the way down a column. Few pixels do, so they are sorted, and no pixel is moved.
    edges = np.empty((part.shape[0] + 1, part.shape[1]), np.bool_)
    edges[0], edges[-1] = part[0], part[-1]
    np.not_equal(part[1:], part[:-1], out=edges[1:-1])
    row, column = np.divmod(np.flatnonzero(edges), part.shape[1])
    bounds = np.sort((column + left) * height + row + top)
    starts, ends = bounds[::2], bounds[1::2]
    return union_runs([(starts, ends)]) if part.shape[0] == height else (starts, ends)


def _box_of(starts: Positions, ends: Positions, height: int) -> tuple[int, int, int, int] | None:
    if not starts.size:
        return None
    first, top = np.divmod(starts, height)
    last, bottom = np.divmod(ends - 1, height)
    if (first != last).any():
        return int(first[0]), 0, int(last[-1]) + 1, height
    return int(first[0]), int(top.min()), int(last[-1]) + 1, int(bottom.max()) + 1


def _canonical(height: int, width: int, counts: bytes | str) -> dict[str, object]:
    # pycocotools stops at two empty runs in a row; those who write them are few.
    if not (_read(height, width, counts)[1:] > 0).all():
        counts = _write(*rle_runs(height, width, counts), height * width)
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


def _lengths_of(starts: Positions, ends: Positions, size: int) -> Positions:
    bounds = np.empty(2 * len(starts) + 2, np.int64)
    bounds[0], bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = 0, starts, ends, size
    lengths = np.diff(bounds)
    return lengths if lengths[-1] or len(lengths) == 1 else lengths[:-1]


def _write(starts: Positions, ends: Positions, size: int) -> bytes:
    values = _lengths_of(starts, ends, size)
    values[3:] -= values[1:-2].copy()
    groups = np.zeros((len(values), _MAX_GROUPS), np.uint8)
    used = np.zeros(groups.shape, np.bool_)
    more = np.ones(len(values), np.bool_)
    for k in range(_MAX_GROUPS):
        low = (values & 31).astype(np.uint8)
        values >>= 5
        used[:, k] = more
        # The highest group's top bit is the sign.
        more = more & (values != np.where(low & 16, -1, 0))
        groups[:, k] = low + 32 * more + 48
        if not more.any():
            break
    return groups[used].tobytes()


def _read(height: int, width: int, counts: bytes | str) -> Positions:
    """The lengths of all runs, outside first."""
    if height < 1 or width < 1:
        raise ValueError(f"expected a mask of at least 1 x 1 pixels, got {width} x {height}")
    text = counts.encode() if isinstance(counts, str) else counts
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not groups.size or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("expected COCO compressed counts, got something else, or a part of them")
    last = np.flatnonzero((groups & 32) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    if (last - first).max() >= _MAX_GROUPS:
        raise ValueError("expected run lengths of at most 35 bits")
    place = np.arange(len(groups)) - np.repeat(first, last - first + 1)
    lengths = np.add.reduceat((groups & 31) << 5 * place, first)
    lengths -= np.where(groups[last] & 16, 1 << 5 * (place[last] + 1), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    if lengths.min() < 0 or lengths.sum() != height * width:
        raise ValueError(f"expected run lengths that add up to {width} x {height} = {height * width} pixels")
    return lengths
