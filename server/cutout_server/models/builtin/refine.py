"""From logits to a mask at the picture's size whose outline follows the picture's edges.

The fast guided filter (He, Sun and Tang, IEEE TPAMI 35, 2013; He and Sun, arXiv 1505.00996): the coefficients of a
local linear model of the logits in the colours are found at a bounded size, and applied to the full picture, but only
in those tiles through which the outline runs. Memory beyond the mask itself does not grow with the picture.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from cutout_server.models.builtin.scene import Field
from cutout_server.models.builtin.window import Window
from cutout_server.types import BoolMask, Box, RgbImage

PINNED = 10.0  # Logits beyond this, either way, are clicks: no refinement may turn them over.
_PIXELS = 250_000
_RADIUS = 4  # In window pixels.
_EPSILON = 2e-4  # Variance of colour in [0, 1] below which there is no edge to follow.
_TILE = 256
_SOFT = 6.0  # Logits count as certain from here on.


def refine(pixels: RgbImage, logits: Field, threshold: float) -> BoolMask:
    """Makes the mask.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        logits: (h, w) float32, stretched over the whole picture.
        threshold: Logits above it are inside.

    Returns:
        (H, W) bool.
    """
    size = pixels.shape[:2]
    mask = np.zeros(size, np.bool_)
    above = logits > threshold
    if not above.any():
        return mask
    window = Window.around(_bounds(above, size), size, 0.02, _PIXELS)
    over = window.sample(np.clip(logits - np.float32(threshold), -_SOFT, _SOFT), size)
    guide = window.crop(pixels).astype(np.float32) / np.float32(255)
    filtered, slope, offset = _guided(guide, over)
    undecided = cv2.dilate((abs(filtered) < 0.95 * _SOFT).astype(np.uint8), np.ones((3, 3), np.uint8))
    model = np.dstack([slope, offset])
    for tile in _tiles(window):
        across, down = _centres(tile.left, tile.right), _centres(tile.top, tile.bottom)
        place = window.to_window(np.stack(np.meshgrid(across, down), -1)) - np.float32(0.5)
        near = place.reshape(-1, 2)[[0, -1]]
        (x0, y0), (x1, y1) = np.floor(near[0]).astype(int).clip(0), np.ceil(near[1]).astype(int) + 1
        part = mask[tile.top : tile.bottom, tile.left : tile.right]
        if not undecided[y0:y1, x0:x1].any():
            part[:] = filtered[y0:y1, x0:x1].mean() > 0
            continue
        here = np.asarray(
            cv2.remap(model, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
        colours = pixels[tile.top : tile.bottom, tile.left : tile.right].astype(np.float32) / 255
        part[:] = np.einsum("ijk,ijk->ij", here[..., :3], colours) + here[..., 3] > 0
    _keep_pins(mask, logits, threshold)
    return mask


def _keep_pins(mask: BoolMask, logits: Field, threshold: float) -> None:
    """Decides the pixels around the pinned samples as the logits alone would."""
    rows, columns = mask.shape
    y, x = rows / logits.shape[0], columns / logits.shape[1]
    for row, column in np.argwhere(abs(logits) > PINNED).tolist():
        left, top = max(int((column - 0.5) * x), 0), max(int((row - 0.5) * y), 0)
        right, bottom = min(int((column + 1.5) * x) + 1, columns), min(int((row + 1.5) * y) + 1, rows)
        around = Window(left, top, right, bottom, bottom - top, right - left)
        exact = around.sample(logits, mask.shape)
        part = mask[top:bottom, left:right]
        part[:] = np.where(abs(exact) > PINNED, exact > threshold, part)


def _bounds(above: BoolMask, size: tuple[int, int]) -> Box:
    rows, columns = np.flatnonzero(above.any(1)), np.flatnonzero(above.any(0))
    y, x = size[0] / above.shape[0], size[1] / above.shape[1]
    left, top, right, bottom = columns[0] - 1, rows[0] - 1, columns[-1] + 2, rows[-1] + 2
    return Box(max(left * x, 0), max(top * y, 0), min(right * x, size[1]), min(bottom * y, size[0]))


def _tiles(window: Window) -> Iterator[Window]:
    for top in range(window.top, window.bottom, _TILE):
        bottom = min(top + _TILE, window.bottom)
        for left in range(window.left, window.right, _TILE):
            right = min(left + _TILE, window.right)
            yield Window(left, top, right, bottom, bottom - top, right - left)


def _centres(start: int, end: int) -> Field:
    return np.arange(start, end, dtype=np.float32) + np.float32(0.5)


def _guided(guide: Field, field: Field) -> tuple[Field, Field, Field]:
    """The filtered field, and the (h, w, 3) slope and (h, w) offset of its model in the (h, w, 3) guide."""

    def mean(values: Field) -> Field:
        side = 2 * _RADIUS + 1
        return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)

    centre, level = mean(guide), mean(field)
    products = np.einsum("ijk,ijl->ijkl", guide, guide).reshape(*field.shape, 9)
    second = np.dstack([mean(np.ascontiguousarray(products[..., k : k + 3])) for k in (0, 3, 6)]).reshape(
        *field.shape, 3, 3
    )
    covariance = second - np.einsum("ijk,ijl->ijkl", centre, centre) + _EPSILON * np.eye(3, dtype=np.float32)
    joint = mean(guide * field[..., None]) - centre * level[..., None]
    slope = np.linalg.solve(covariance, joint[..., None])[..., 0].astype(np.float32)
    offset = level - np.einsum("ijk,ijk->ij", slope, centre)
    slope, offset = mean(slope), mean(offset)
    return np.einsum("ijk,ijk->ij", slope, guide) + offset, slope, offset
