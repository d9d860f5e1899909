"""What is kept of a picture."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from cutout_server.models.builtin import hierarchy
from cutout_server.models.builtin.hierarchy import Hierarchy
from cutout_server.models.builtin.superpixels import superpixels, to_lab
from cutout_server.types import RgbImage

_SIDE = 320
_CELL = 10


@dataclass(frozen=True)
class BuiltinEmbedding:
    """A picture and its tree of regions.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, the picture itself: outlines follow its edges.
        tree: Of the picture at working size.
    """

    pixels: RgbImage = field(repr=False)
    tree: Hierarchy = field(repr=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self.pixels.nbytes + self.tree.nbytes


def embed(pixels: RgbImage) -> BuiltinEmbedding:
    """Builds the tree of a (H, W, 3) uint8 RGB picture."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    small: RgbImage = np.asarray(cv2.GaussianBlur(resized, (0, 0), 0.7), np.uint8)
    return BuiltinEmbedding(pixels, hierarchy.build(superpixels(small, to_lab(small), _CELL)))
