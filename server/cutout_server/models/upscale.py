"""Masks at a picture's size, made only where they can be: pixel for pixel those of the interpolation of everything.

A value between others does not exceed them, so that nothing is inside but in the cells around logits above the
threshold. There, what torch would read is weighed as torch would weigh it; only roundings may come in another order, so
that a value is known up to a bound. Rows with a pixel that is nearer to the threshold are made by torch's own kernel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutout_server.models.bilinear import NARROW, Interpolation, Taps, Values, interpolate_rows
from cutout_server.types import MaskPatch

_SMALL = 1 << 17  # Pixels of a picture that is not worth the trouble.
_STRIP = 1 << 17  # Pixels in hand at once: they stay in a core's cache.
_WHOLE = 1 << 23  # Likewise, where everything is interpolated.
_ROWS_PER_DOUBT = 16  # Of a picture; with more rows in doubt than that, everything is made by torch.
_ROUNDINGS = 16  # That both ways to a value take together, by half a unit in the last place each, per interpolation.
_HALF_ULP = 2.0**-24

Span = tuple[int, int]


@dataclass(frozen=True)
class Levels:
    """The masks of one object at several thresholds: outside of a part, nothing is inside any of them.

    Attributes:
        size: (height, width) of the picture.
        top: The part's first row.
        left: Its first column.
        inside: (T, h, w) bool, on the device.
    """

    size: tuple[int, int]
    top: int
    left: int
    inside: Tensor

    def areas(self) -> list[int]:
        """Pixels inside each."""
        areas: list[int] = self.inside.sum((1, 2)).tolist()
        return areas

    def patch(self, index: int) -> MaskPatch:
        """One of them."""
        return MaskPatch(*self.size, self.top, self.left, self.inside[index].cpu().numpy())


class Upscaling:
    """From logits of one size to pictures of one size.

    Args:
        source: (height, width) of the logits.
        interpolations: One after the other.
    """

    def __init__(self, source: tuple[int, int], interpolations: tuple[Interpolation, ...]) -> None:
        self._interpolations = interpolations
        self._size = interpolations[-1].kept
        sources = (source, *(interpolation.kept for interpolation in interpolations[:-1]))
        self._rows, self._columns = (
            [
                Taps.of(size[axis], interpolation.size[axis], interpolation.kept[axis])
                for size, interpolation in zip(sources, interpolations, strict=True)
            ]
            for axis in (0, 1)
        )

    def levels(self, logits: Tensor, thresholds: Sequence[float]) -> Iterator[Levels]:
        """What exceeds each threshold in each of (N, h, w) float32 logits, brought to the picture's size."""
        if not len(logits):
            return
        pixels = self._size[0] * self._size[1]
        # An accelerator is done with everything before it could be told what to leave out.
        if logits.device.type != "cpu" or pixels <= _SMALL or self._size[1] < NARROW:
            for part in torch.split(logits, max(1, _WHOLE // pixels)):
                yield from self._everywhere(part, thresholds)
            return
        values: Values = logits.numpy()
        doubt = self._doubt(values, thresholds)
        if not np.isfinite(doubt):
            yield from self._everywhere(logits, thresholds)
            return
        inside = values > min(thresholds) - doubt
        rows, columns = (_spans(np.any(inside, axis)) for axis in (2, 1))
        for each in zip(values, rows, columns, strict=True):
            yield self._within(*each, thresholds)

    def _doubt(self, values: Values, thresholds: Sequence[float]) -> float:
        """How far from torch's own a value between these can be, and how far a sum with a threshold can be rounded."""
        largest = max(abs(threshold) for threshold in thresholds) + float(np.abs(values).max())
        return _ROUNDINGS * _HALF_ULP * len(self._interpolations) * largest

    def _everywhere(self, logits: Tensor, thresholds: Sequence[float]) -> Iterator[Levels]:
        values = logits
        for interpolation in self._interpolations:
            values = interpolation(values)
        inside = values > min(thresholds)
        rows, columns = (_spans(inside.any(axis).cpu().numpy()) for axis in (2, 1))
        for each, (top, bottom), (left, right) in zip(values, rows, columns, strict=True):
            part = each[top:bottom, left:right]
            yield Levels(self._size, top, left, torch.stack([part > threshold for threshold in thresholds]))

    def _within(self, logits: Values, rows: Span, columns: Span, thresholds: Sequence[float]) -> Levels:
        margin = len(self._interpolations)
        near = tuple(slice(max(0, start - margin), stop + margin) for start, stop in (rows, columns))
        for down, across in zip(self._rows, self._columns, strict=True):
            rows, columns = down.reached(*rows), across.reached(*columns)
        (top, bottom), (left, right) = rows, columns
        inside = np.zeros((len(thresholds), max(0, bottom - top), max(0, right - left)), np.bool_)
        doubt = self._doubt(logits[near], thresholds) if inside.size else 0.0
        in_doubt: set[int] = set()
        strip = max(1, _STRIP // max(1, right - left))
        for start in range(top, bottom, strip) if right > left else ():
            stop = min(bottom, start + strip)
            values = self._part(logits, len(self._interpolations), (start, stop), columns)
            for level, threshold in zip(inside, thresholds, strict=True):
                surely = np.greater(values, np.float32(threshold + doubt), out=level[start - top : stop - top])
                differs = np.not_equal(surely, values > np.float32(threshold - doubt))
                if differs.any():
                    in_doubt.update((start + np.flatnonzero(differs.any(1))).tolist())
        if len(in_doubt) > self._size[0] // _ROWS_PER_DOUBT:
            return next(self._everywhere(torch.from_numpy(logits)[None], thresholds))
        for row in in_doubt:
            exact = self._row(torch.from_numpy(logits), len(self._interpolations), row)[left:right]
            for level, threshold in zip(inside, thresholds, strict=True):
                level[row - top] = (exact > threshold).numpy()
        return Levels(self._size, top, left, torch.from_numpy(inside))

    def _part(self, logits: Values, count: int, rows: Span, columns: Span) -> Values:
        """Rows and columns of what the first `count` interpolations make, up to rounding."""
        if count == 0:
            return logits[slice(*rows), slice(*columns)]
        down, across = self._rows[count - 1], self._columns[count - 1]
        needed_rows, needed_columns = down.needed(*rows), across.needed(*columns)
        values = self._part(logits, count - 1, needed_rows, needed_columns)
        return down.apply(across.apply(values, 1, columns, needed_columns[0]), 0, rows, needed_rows[0])

    def _row(self, logits: Tensor, count: int, row: int) -> Tensor:
        """A whole row of what the first `count` interpolations make, (w,), to the bit."""
        if count == 0:
            return logits[row]
        taps, interpolation = self._rows[count - 1], self._interpolations[count - 1]
        pair = torch.stack([self._row(logits, count - 1, int(side[row])) for side in (taps.first, taps.second)])
        # Torch looks for the first row at 0.5 * scale - 0.5 between the two.
        scale = 2 * float(taps.share[row]) + 1
        return interpolate_rows(pair, 1, interpolation.size[1], scale)[0, : interpolation.kept[1]]


@lru_cache(maxsize=16)
def upscaling(source: tuple[int, int], interpolations: tuple[Interpolation, ...]) -> Upscaling:
    """The last ones are kept: pictures are asked about more than once, and cameras have one size."""
    return Upscaling(source, interpolations)


def _spans(found: NDArray[np.bool_]) -> list[Span]:
    """The first and past the last True of each row of (N, n)."""
    ends = zip(found, found.argmax(1).tolist(), found[:, ::-1].argmax(1).tolist(), strict=True)
    return [(first, len(each) - after) if each.any() else (0, 0) for each, first, after in ends]
