"""The file that prepare.py wrote, mapped into memory, and crops of its pictures."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cutout_server.models.builtin.crops import Window, crop

IGNORE = 255


@dataclass(frozen=True)
class Object:
    """One outlined object: which picture, its numbers there, its box (x_min, y_min, x_max, y_max) and its area."""

    picture: int
    ids: tuple[int, ...]
    box: tuple[int, int, int, int]
    area: int


class Pictures:
    """Read-only; any number of threads may use one."""

    def __init__(self, path: Path) -> None:
        """`path` without its suffixes, as prepare.py was given it."""
        described = json.loads(Path(f"{path}.json").read_text())
        self._bytes = np.memmap(f"{path}.bin", np.uint8, "r")
        self.pictures = described["pictures"]
        self.objects = [Object(o["picture"], tuple(o["ids"]), tuple(o["box"]), o["area"]) for o in described["objects"]]

    def of(self, split: str) -> list[Object]:
        """The objects of a split: "train", "val" or "held".

        The last is half of what the data call `val`: nothing was decided by looking at it.
        """
        found = []
        for one in self.objects:
            picture = self.pictures[one.picture]
            own = picture["split"]
            if own == "val" and zlib.crc32(picture["file"].encode()) % 2:
                own = "held"
            if own == split:
                found.append(one)
        return found

    def size(self, number: int) -> tuple[int, int]:
        """(height, width) of a picture."""
        return self.pictures[number]["height"], self.pictures[number]["width"]

    def read(self, number: int, level: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 RGB and (H, W) uint8 object numbers, both views of the file; at level 1 half as wide."""
        picture = self.pictures[number]
        height, width, offset = picture["height"], picture["width"], picture["offset"]
        if level:
            offset += 4 * height * width
            height, width = max(height // 2, 1), max(width // 2, 1)
        middle, end = offset + 3 * height * width, offset + 4 * height * width
        return (
            self._bytes[offset:middle].reshape(height, width, 3),
            self._bytes[middle:end].reshape(height, width),
        )

    def crop(self, one: Object, window: Window, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(size, size, 3) RGB, and where the object is and where anything is known, (size, size) each, all uint8."""
        level = int(min(window.width, window.height) >= 2 * size)
        picture, numbers = self.read(one.picture, level)
        part = window.scaled(0.5) if level else window
        # Numbers cannot be averaged: twice as many are taken, for a soft outline.
        seen = crop(numbers, part, 2 * size, nearest=True)
        mask, known = mask_of(seen, one.ids), (seen != IGNORE).view(np.uint8) * 255
        soft = (size, size)
        return (
            crop(picture, part, size),
            cv2.resize(mask, soft, interpolation=cv2.INTER_AREA),
            cv2.resize(known, soft, interpolation=cv2.INTER_NEAREST),
        )


def mask_of(numbers: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8, 255 where the object is."""
    mask = numbers == ids[0]
    for one in ids[1:]:
        mask |= numbers == one
    return mask.view(np.uint8) * 255
