"""The picture with a request's objects drawn on it, as a file."""

from collections.abc import Sequence
from dataclasses import dataclass

from cutout_common import overlay
from cutout_server.imaging.masks import from_rle
from cutout_server.types import BoolMask, Box, EncodedOverlay, OverlayFormat, Picture, SegmentedObject


@dataclass(frozen=True)
class _Drawn:
    """An object whose mask is unpacked only while it is drawn."""

    found: SegmentedObject

    @property
    def image_size(self) -> tuple[int, int]:
        return self.found.mask.height, self.found.mask.width

    @property
    def part(self) -> tuple[int, int, BoolMask]:
        patch = from_rle(self.found.mask)
        return patch.top, patch.left, patch.inside

    @property
    def area(self) -> int:
        return self.found.area

    @property
    def label(self) -> str:
        concepts = self.found.concepts
        return concepts[0].concept if concepts and not self.found.label else self.found.label

    @property
    def score(self) -> float:
        concepts = self.found.concepts
        return concepts[0].score if concepts and not self.found.label else self.found.score

    @property
    def prompt_box(self) -> Box | None:
        return self.found.prompt_box


def draw_overlay(picture: Picture, objects: Sequence[SegmentedObject], file_format: OverlayFormat) -> EncodedOverlay:
    """Draws the objects on the picture; memory does not grow with their number."""
    pixels = overlay.draw(picture.pixels, [_Drawn(found) for found in objects])
    encode = overlay.encode_png if file_format is OverlayFormat.PNG else overlay.encode_jpeg
    return EncodedOverlay(file_format.value, encode(pixels))
