"""Masks at an image's size, made only where they can be; pixel for pixel those of interpolating all of it by torch.

Bilinear interpolation weighs four logits by shares that are not negative and sum to one. So no pixel exceeds the
largest logit that it reads, and only those can be inside that read one above the threshold:

    logits                 image
    .  .  .  .  .          .  .  .  .  .  .  .  .  .  .
    .  .  #  .  .   ---->  .  .  .  +  +  +  +  .  .  .     #  above the threshold
    .  .  #  #  .          .  .  .  +  +  +  +  +  +  .     +  reads one of them: interpolated and compared
    .  .  .  .  .          .  .  .  +  +  +  +  +  +  .     .  reads none: outside

What is around all # is found first, then what is around all +. NumPy interpolates that part, in strips that stay in a
core's cache. It rounds in another order than torch, so that its values are off by a bound at most. A pixel that is no
farther than that from the threshold is in doubt, and its row is made once more by torch's own kernel.
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

_SMALL = 1 << 17  # Pixels of an image that is not worth the trouble.
_STRIP = 1 << 17  # Pixels in hand at once: they stay in a core's cache.
_WHOLE = 1 << 23  # Likewise, where everything is interpolated.
_ROWS_PER_DOUBT = 16  # Of an image; with more rows in doubt than that, everything is made by torch.
# Half units in the last place between NumPy's value and torch's, for each interpolation, as every operation rounds by
# one at most (Higham, Accuracy and Stability of Numerical Algorithms, 2.2). NumPy takes first + (second - first) *
# share along two axes: 2 for the difference, which may be twice as large as the values, 2 for its product, 1 for the
# sum. Torch adds two products, whose shares are rounded: 3 along each axis. 2 * 5 + 2 * 3.
_ROUNDINGS = 16
_HALF_ULP = 2.0**-24  # Of float32 values near 1.

Span = tuple[int, int]


@dataclass(frozen=True)
class Levels:
    """The masks of one object at several thresholds: outside of a part, nothing is inside any of them.

    Attributes:
        size: (height, width) of the image.
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
    """From logits of one size to images of one size.

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
        """What exceeds each threshold in each of (N, h, w) float32 logits, brought to the image's size."""
        if not len(logits):
            return
        pixels = self._size[0] * self._size[1]
        # An accelerator is done with everything before it could be told what to leave out.
        if logits.device.type != "cpu" or pixels <= _SMALL or self._size[1] < NARROW:
            for part in torch.split(logits, max(1, _WHOLE // pixels)):
                yield from self._everywhere(part, thresholds)
            return
        values: Values = logits.numpy()
        bound = self._error_bound(values, thresholds)
        if not np.isfinite(bound):  # Neither are the values, and nothing is known of what they come to.
            yield from self._everywhere(logits, thresholds)
            return
        above = values > min(thresholds) - bound
        rows, columns = (_spans(np.any(above, axis)) for axis in (2, 1))
        for of_one, of_rows, of_columns in zip(values, rows, columns, strict=True):
            yield self._around(of_one, of_rows, of_columns, thresholds)

    def _error_bound(self, values: Values, thresholds: Sequence[float]) -> float:
        """How far from torch's a value made of these can be, and how far its sum with a threshold can be rounded."""
        largest = max(abs(threshold) for threshold in thresholds) + float(np.abs(values).max())
        return _ROUNDINGS * _HALF_ULP * len(self._interpolations) * largest

    def _everywhere(self, logits: Tensor, thresholds: Sequence[float]) -> Iterator[Levels]:
        values = logits
        for interpolation in self._interpolations:
            values = interpolation(values)
        above = values > min(thresholds)
        rows, columns = (_spans(above.any(axis).cpu().numpy()) for axis in (2, 1))
        for of_one, (top, bottom), (left, right) in zip(values, rows, columns, strict=True):
            part = of_one[top:bottom, left:right]
            yield Levels(self._size, top, left, torch.stack([part > threshold for threshold in thresholds]))

    def _around(self, logits: Values, rows: Span, columns: Span, thresholds: Sequence[float]) -> Levels:
        """The masks of one object whose logits above the thresholds lie in these rows and columns."""
        # What is read there lies at most one logit beyond, for each interpolation.
        margin = len(self._interpolations)
        near = tuple(slice(max(0, start - margin), stop + margin) for start, stop in (rows, columns))
        for down, across in zip(self._rows, self._columns, strict=True):
            rows, columns = down.reached(*rows), across.reached(*columns)
        (top, bottom), (left, right) = rows, columns
        inside = np.zeros((len(thresholds), max(0, bottom - top), max(0, right - left)), np.bool_)
        if not inside.size:
            return Levels(self._size, top, left, torch.from_numpy(inside))
        in_doubt = self._compare(logits, rows, columns, thresholds, self._error_bound(logits[near], thresholds), inside)
        if len(in_doubt) > self._size[0] // _ROWS_PER_DOUBT:
            return next(self._everywhere(torch.from_numpy(logits)[None], thresholds))
        for row in in_doubt:
            exact = self._exact_row(torch.from_numpy(logits), len(self._interpolations), row)[left:right]
            for level, threshold in zip(inside, thresholds, strict=True):
                level[row - top] = (exact > threshold).numpy()
        return Levels(self._size, top, left, torch.from_numpy(inside))

    def _compare(
        self,
        logits: Values,
        rows: Span,
        columns: Span,
        thresholds: Sequence[float],
        bound: float,
        inside: NDArray[np.bool_],
    ) -> set[int]:
        """Fills in what surely exceeds each threshold, and gives the rows in which that is in doubt of a pixel."""
        top, bottom = rows
        in_doubt: set[int] = set()
        strip = max(1, _STRIP // (columns[1] - columns[0]))
        for start in range(top, bottom, strip):
            stop = min(bottom, start + strip)
            values = self._interpolated(logits, len(self._interpolations), (start, stop), columns)
            for level, threshold in zip(inside, thresholds, strict=True):
                surely = np.greater(values, np.float32(threshold + bound), out=level[start - top : stop - top])
                differs = np.not_equal(surely, values > np.float32(threshold - bound))
                if differs.any():
                    in_doubt.update((start + np.flatnonzero(differs.any(1))).tolist())
        return in_doubt

    def _interpolated(self, logits: Values, count: int, rows: Span, columns: Span) -> Values:
        """Rows and columns of what the first `count` interpolations make, up to rounding."""
        if count == 0:
            return logits[slice(*rows), slice(*columns)]
        down, across = self._rows[count - 1], self._columns[count - 1]
        needed_rows, needed_columns = down.needed(*rows), across.needed(*columns)
        values = self._interpolated(logits, count - 1, needed_rows, needed_columns)
        return down.apply(across.apply(values, 1, columns, needed_columns[0]), 0, rows, needed_rows[0])

    def _exact_row(self, logits: Tensor, count: int, row: int) -> Tensor:
        """A whole row of what the first `count` interpolations make, (w,), to the bit."""
        if count == 0:
            return logits[row]
        taps, interpolation = self._rows[count - 1], self._interpolations[count - 1]
        read = [self._exact_row(logits, count - 1, int(side[row])) for side in (taps.first, taps.second)]
        # Torch's kernel looks for the first row that it makes at 0.5 * scale - 0.5 of the rows that it is given. These
        # are the two that this row reads, and that is to be its share of the second one.
        scale = 2 * float(taps.share[row]) + 1
        return interpolate_rows(torch.stack(read), 1, interpolation.size[1], scale)[0, : interpolation.kept[1]]


@lru_cache(maxsize=16)
def upscaling(source: tuple[int, int], interpolations: tuple[Interpolation, ...]) -> Upscaling:
    """The last ones are kept: images are asked about more than once, and cameras have one size."""
    return Upscaling(source, interpolations)


def _spans(found: NDArray[np.bool_]) -> list[Span]:
    """The first and past the last True of each row of (N, n)."""
    ends = zip(found, found.argmax(1).tolist(), found[:, ::-1].argmax(1).tolist(), strict=True)
    return [(first, len(each) - after) if each.any() else (0, 0) for each, first, after in ends]
