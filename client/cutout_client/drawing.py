"""Objects on pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
from cutout_common.overlay import draw
from numpy.typing import NDArray

from cutout_client.images import Picture
from cutout_client.objects import SegmentedObject, mask_of
from cutout_client.prompts import Box

_GROUND = 235  # where there is no picture


def drawn(pixels: NDArray[np.uint8], objects: Sequence[SegmentedObject]) -> PIL.Image.Image:
    """(H, W, 3) pixels with masks, outlines and labels of objects drawn on them."""
    height, width, _ = pixels.shape
    return PIL.Image.fromarray(draw(pixels, [_Drawn(each, (height, width)) for each in objects]))


def cut_out(pixels: NDArray[np.uint8], each: SegmentedObject) -> PIL.Image.Image:
    """An object alone: RGBA, cropped to its box, transparent outside of its mask."""
    x_min, y_min, x_max, y_max = map(int, each.box)
    window = np.s_[y_min:y_max, x_min:x_max]
    return PIL.Image.fromarray(np.dstack([pixels[window], mask_of(each)[window] * np.uint8(255)]))


def ground_of(picture: Picture | None, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3): the picture, or where it is not here, or no longer, a plain ground."""
    try:
        pixels = picture.rgb() if picture is not None and picture.is_here else None
    except (OSError, ValueError):
        pixels = None
    if pixels is None or pixels.shape[:2] != size:
        return np.full((*size, 3), _GROUND, np.uint8)
    return pixels


def alone(each: SegmentedObject, picture: Picture | None) -> PIL.Image.Image:
    """One object on its picture."""
    height, width = mask_of(each).shape
    return drawn(ground_of(picture, (height, width)), [each])


@dataclass(frozen=True)
class _Drawn:
    """An object as `draw` takes it."""

    found: SegmentedObject

    image_size: tuple[int, int]

    @property
    def part(self) -> tuple[int, int, NDArray[np.bool_]]:
        x_min, y_min, x_max, y_max = map(int, self.found.box)
        return y_min, x_min, mask_of(self.found)[y_min:y_max, x_min:x_max]

    @property
    def area(self) -> int:
        return self.found.area

    @property
    def label(self) -> str:
        return self.found.name

    @property
    def score(self) -> float:
        concepts = None if self.found.label else self.found.concepts
        return concepts.best.score if concepts else self.found.score

    @property
    def prompt_box(self) -> Box | None:
        return self.found.prompt_box
