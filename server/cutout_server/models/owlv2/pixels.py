"""A picture on the square that the model looks at, as `Owlv2ImageProcessor` lays it, without the square at full size.

The processor pads the picture with black to a square as long as its longer side, blurs that square with a Gaussian so
that nothing aliases, and samples it bilinearly. For a picture of 1 x 60000 the square alone takes 43 gigabytes. All
three steps are linear and separable, so each axis is a matrix with a narrow band, and the padding adds nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutout_server.types import RgbImage

_LINES = 64  # Of the output at once.
_WEIGHTS = 2**22  # In one band at most, which only absurdly long pictures reach.


@dataclass(frozen=True)
class _Band:
    """Some neighbouring lines of the output.

    Attributes:
        lines: Which.
        window: The lines of the picture that they are made of.
        weights: (lines, window) float32.
    """

    lines: slice
    window: slice
    weights: Tensor


def square(image: RgbImage, side: int) -> Tensor:
    """(3, side, side) float32 in [0, 255]: the picture at the top left, black elsewhere.

    Args:
        image: (H, W, 3) uint8 RGB.
        side: In pixels.
    """
    height, width = image.shape[:2]
    padded = max(height, width)
    columns = list(_bands(padded, width, side))
    out = torch.zeros(3, side, side)
    for rows in _bands(padded, height, side):
        window = np.ascontiguousarray(image[rows.window].transpose(2, 0, 1), np.float32)
        narrowed = rows.weights @ torch.from_numpy(window)
        for column in columns:
            out[:, rows.lines, column.lines] = narrowed[:, :, column.window] @ column.weights.T
    return out


def _bands(padded: int, length: int, side: int) -> Iterator[_Band]:
    """The resampling of one axis from `padded` to `side` lines, of which the picture fills the first `length`."""
    scale = np.float32(padded / side)
    sources = np.maximum((np.arange(side, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    above = np.minimum(sources.astype(np.int64), padded - 1)
    share = np.where(above < padded - 1, sources - above, 0).astype(np.float64)
    kernel = _gaussian(max(padded / side - 1, 0) / 2)
    offsets = np.arange(len(kernel) + 1) - len(kernel) // 2
    window = int(scale * _LINES) + len(kernel) + 1
    lines = max(1, min(_LINES, _WEIGHTS // window))
    for start in range(0, side, lines):
        part = slice(start, min(start + lines, side))
        # Two blurred lines make one line of the output.
        weights = np.zeros((part.stop - start, len(offsets)))
        weights[:, :-1] += np.outer(1 - share[part], kernel)
        weights[:, 1:] += np.outer(share[part], kernel)
        yield from _band(part, _reflected(above[part, None] + offsets, padded), weights, length)


def _band(lines: slice, indices: NDArray[np.int64], weights: NDArray[np.float64], length: int) -> Iterator[_Band]:
    """The band as a matrix; none where it sees nothing of the picture."""
    first, last = int(indices.min()), min(int(indices.max()), length - 1)
    if first >= length:
        return
    dense = np.zeros((len(indices), last + 1 - first), np.float64)
    seen = indices < length
    rows = np.broadcast_to(np.arange(len(indices))[:, None], indices.shape)
    np.add.at(dense, (rows[seen], indices[seen] - first), weights[seen])
    yield _Band(lines, slice(first, last + 1), torch.from_numpy(dense.astype(np.float32)))


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Weights to three standard deviations, as skimage.transform.resize cuts it; a single one for no blur."""
    if sigma == 0:
        return np.ones(1)
    radius = math.ceil(3 * sigma)
    weights: NDArray[np.float64] = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    return weights


def _reflected(indices: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Indices beyond either end, reflected about the outermost lines."""
    indices = np.abs(indices)
    return np.clip(np.where(indices < length, indices, 2 * (length - 1) - indices), 0, length - 1)
