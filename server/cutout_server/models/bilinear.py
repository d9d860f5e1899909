"""Bilinear interpolation as torch does it, and what it reads and weighs on the way."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Values = NDArray[np.float32]

NARROW = 128  # Up to as many rows and columns together, torch takes another kernel, which rounds in another way.


@dataclass(frozen=True)
class Interpolation:
    """A bilinear interpolation, corners not aligned, of which the upper left part goes on.

    Attributes:
        size: (height, width) that it goes to.
        kept: (height, width) of what goes on.
    """

    size: tuple[int, int]
    kept: tuple[int, int]

    def __call__(self, values: Tensor) -> Tensor:
        """(N, h, w) to (N, *kept)."""
        interpolated = functional.interpolate(values[:, None], self.size, mode="bilinear", align_corners=False)
        return interpolated[:, 0, : self.kept[0], : self.kept[1]]


@dataclass(frozen=True)
class Taps:
    """What is read along one axis: output i is input first[i] * (1 - share[i]) + input second[i] * share[i].

    Attributes:
        first: (n,) int64, never falling.
        second: Likewise; the next one, or the last one again.
        share: (n,) float32.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: NDArray[np.float32]

    def reached(self, start: int, stop: int) -> tuple[int, int]:
        """The outputs, from and to, that read any of the inputs from start to stop."""
        return int(np.searchsorted(self.second, start)), int(np.searchsorted(self.first, stop))

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """The inputs, from and to, that the outputs from start to stop read."""
        return int(self.first[start]), int(self.second[stop - 1]) + 1

    def apply(self, values: Values, axis: int, wanted: tuple[int, int], origin: int) -> Values:
        """The wanted outputs, up to rounding, along one axis of (h, w) inputs that begin at `origin`."""
        part = slice(*wanted)
        first, second = (values.take(side[part] - origin, axis) for side in (self.first, self.second))
        share = self.share[part]
        second -= first
        second *= share[None] if axis else share[:, None]
        second += first
        return second

    @classmethod
    def of(cls, source: int, size: int, kept: int) -> "Taps":
        """Asks torch for its own weights, to the bit, from `source` inputs to the first `kept` of `size` outputs.

        It interpolates three combs: the comb of residue r is 1 in each row whose number is r modulo 3, and 0 elsewhere.
        An output reads two neighbours, which have two residues: their combs show the weight of each, the third shows 0.

            row    comb 0  comb 1  comb 2         output between rows 1 and 2, at 0.25
            0         1       0       0
            1         0       1       0    ---->        0     0.75    0.25
            2         0       0       1
            3         1       0       0
        """
        scale = float(np.float32(source) / np.float32(size))
        # More than there are, so that the last tap shows its weights although torch reads the last value twice; but not
        # as many as come out, which torch would only copy.
        count = source + 1 + (size == source + 1)
        combs = (torch.arange(count)[:, None] % 3 == torch.arange(3)).float()
        combs = combs.repeat(1, NARROW // 3 + 1 if size < NARROW else 1)
        weights = interpolate_rows(combs, size, combs.shape[1], scale)[:kept, :3].numpy()
        place = np.maximum((np.arange(kept) + 0.5) * scale - 0.5, 0)
        first, output = np.floor(place).astype(np.int64), np.arange(kept)
        # Next to a whole number torch may have rounded to its other side: then the third comb is the one that shows.
        missed = weights[output, (first + 2) % 3] != 0
        first += np.where(missed, np.where(place - first < 0.5, -1, 1), 0)
        share = weights[output, (first + 1) % 3].copy()
        return cls(first, np.minimum(first + 1, source - 1), share)


def interpolate_rows(values: Tensor, height: int, width: int, scale: float) -> Tensor:
    """(h, w) to (height, width) by torch's kernel, which goes down by `scale` rows at a time, whatever the heights."""
    rows: Tensor = torch.ops.aten.upsample_bilinear2d(values[None, None], [height, width], False, 1 / scale, None)
    return rows[0, 0]
