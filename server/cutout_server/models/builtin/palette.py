"""Colour models: smoothed histograms in CIE L*a*b*."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.superpixels import Lab

_BINS = (20, 24, 24)  # L* in [0, 100]; a* and b* in [-60, 60], beyond which photographs hardly go.
_KERNEL = cv2.getGaussianKernel(7, 0.8).astype(np.float32)
_SAME = np.ones((1, 1), np.float32)
_FLOOR = 1e-6  # Density of a colour that was never seen.


class Palette:
    """The colours of one picture, ready for densities under any weighting of its pixels."""

    def __init__(self, lab: Lab) -> None:
        scaled = (lab[..., 0] / 100, lab[..., 1] / 120 + 0.5, lab[..., 2] / 120 + 0.5)
        light, red, yellow = (
            (np.clip(values, 0, 0.9999) * bins).astype(np.int32) for values, bins in zip(scaled, _BINS, strict=True)
        )
        index = (light * _BINS[1] + red) * _BINS[2] + yellow
        self._used, which = np.unique(index, return_inverse=True)
        self._which = which.reshape(index.shape)

    def density(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h, w) weights to the density at each colour that occurs."""
        histogram = np.zeros(int(np.prod(_BINS)), np.float32)
        histogram[self._used] = np.bincount(self._which.ravel(), weights.ravel(), len(self._used))
        for bins in _BINS:  # One axis at a time; after three turns the axes are where they were.
            smooth = cv2.sepFilter2D(histogram.reshape(bins, -1), -1, _SAME, _KERNEL, borderType=cv2.BORDER_CONSTANT)
            histogram = np.asarray(smooth.T.ravel(), np.float32)
        return np.asarray(histogram[self._used] / max(float(histogram.sum()), _FLOOR), np.float32)

    def log_ratio(self, inside: NDArray[np.float32], outside: NDArray[np.float32]) -> NDArray[np.float32]:
        """How much more a pixel's colour is at home inside than outside.

        Args:
            inside: (h, w) float32 weights.
            outside: The same.

        Returns:
            (h, w) float32 natural logarithm of the ratio of densities, in [-6, 6].
        """
        ratio = np.log((self.density(inside) + _FLOOR) / (self.density(outside) + _FLOOR))
        return np.asarray(ratio.clip(-6, 6)[self._which], np.float32)
