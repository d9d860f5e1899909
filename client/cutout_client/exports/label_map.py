"""Label maps: pictures whose pixels are numbers of classes or of objects."""

import io
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import PIL.Image
from cutout_common.disks import write
from numpy.typing import NDArray

from cutout_client.answer import Answer
from cutout_client.exports.classes import Classes
from cutout_client.objects import mask_of
from cutout_client.saving import write_json

MOST = 254  # 0 is the ground, and 255 means "not said" to those who read such maps


def label_map(
    result: Answer, by: Literal["class", "object"] = "class", classes: Classes | None = None
) -> NDArray[np.int32]:
    """(H, W) int32: 0 for the ground, else the number of the class or, from 1 on, of the object.

    Where objects overlap the smallest is in front.
    """
    classes = classes or Classes(first=1)
    numbers = [classes.number(each) if by == "class" else index for index, each in enumerate(result, start=1)]
    labels = np.zeros((result.image.height, result.image.width), np.int32)
    for each, number in sorted(zip(result, numbers, strict=True), key=lambda pair: -pair[0].area):
        labels[mask_of(each)] = number
    return labels


def palette_png(labels: NDArray[np.int32]) -> bytes:
    """A PNG file of 8 bits with Pascal VOC's colours.

    Raises:
        ValueError: There are more than 254 labels.
    """
    if labels.max(initial=0) > MOST:
        raise ValueError(f"a label map of 8 bits holds {MOST} labels, not {labels.max()}")
    image = PIL.Image.fromarray(labels.astype(np.uint8))
    image.putpalette(PALETTE.ravel().tolist())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _palette() -> NDArray[np.uint8]:
    """(256, 3) uint8: the colours of Pascal VOC's development kit, a number's bits dealt to red, green and blue."""
    numbers = np.arange(256)[:, None] >> np.arange(3)
    bits = [(numbers >> 3 * i & 1) << 7 - i for i in range(8)]
    palette: NDArray[np.uint8] = np.sum(bits, axis=0).astype(np.uint8)
    return palette


PALETTE = _palette()


class LabelMaps:
    """A PNG with a palette for each picture, and classes.json, number to name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._classes = Classes(first=1)
        self._files: list[Path] = []

    def add(self, file_name: str, result: Answer) -> None:
        """See `Dataset`."""
        path = self._folder / PurePosixPath(file_name).with_suffix(".png")
        content = palette_png(label_map(result, classes=self._classes))
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
        self._files.append(path)

    def save(self) -> list[Path]:
        """See `Dataset`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        names = {0: "background"} | self._classes.names
        return [*self._files, *write_json(self._folder / "classes.json", names)]
