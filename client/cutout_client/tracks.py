"""What was found in a video as files: a map of ids for each frame, and all run lengths in one JSON document."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from cutout_common import masks
from cutout_common.overlay import color_of

from cutout_client.tracked import TrackedFrame


class Tracks:
    """Collects frames. Label maps are written as they come; the rest is run lengths, which are small.

    Args:
        folder: Gets `labels/00000.png` and so on, palette PNGs whose values are ids, as DAVIS has them, and
            `tracks.json` in the layout of YouTube-VOS: for each object a list with COCO run lengths, boxes and areas of
            each frame, null where it is not present.
        names: Of objects, for the file; looked at when it is saved.
    """

    def __init__(self, folder: Path, names: Mapping[int, str] | None = None) -> None:
        self._folder = folder
        self._names = {} if names is None else names
        self._files: list[str] = []
        self._size: list[int] = []
        self._objects: dict[int, dict[int, tuple[Any, list[float], int]]] = {}

    def add(self, frame: TrackedFrame) -> None:
        """Takes a frame in.

        Raises:
            ValueError: An id is above 255, for which a palette has no room.
        """
        labels = frame.labels()
        if labels.max(initial=0) > 255:
            raise ValueError(f"label maps hold ids up to 255, got {labels.max()}")
        self._size = [labels.shape[0], labels.shape[1]]
        image = PIL.Image.fromarray(labels.astype(np.uint8))
        image.putpalette([0, 0, 0, *(value for number in range(255) for value in color_of(number))])
        place = self._folder / "labels" / f"{frame.index:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place, optimize=True)
        number = len(self._files)
        self._files.append(place.name)
        for each in frame:
            found = self._objects.setdefault(each.object_id, {})
            if each.mask is not None and each.box is not None:
                counts = masks.rle_encode(each.mask).decode()
                box = [each.box.x_min, each.box.y_min, each.box.width, each.box.height]
                found[number] = ({"size": self._size, "counts": counts}, box, each.area)

    def save(self) -> Path:
        """Writes `tracks.json`, and says where."""
        count = len(self._files)
        height, width = self._size or (0, 0)

        def column(found: Mapping[int, tuple[Any, ...]], index: int) -> list[Any]:
            return [found[number][index] if number in found else None for number in range(count)]

        content = {
            "videos": [{"id": 1, "width": width, "height": height, "length": count, "file_names": self._files}],
            "categories": [{"id": number, "name": self._names.get(number, str(number))} for number in self._objects],
            "annotations": [
                {
                    "id": number,
                    "video_id": 1,
                    "category_id": number,
                    "segmentations": column(found, 0),
                    "bboxes": column(found, 1),
                    "areas": column(found, 2),
                }
                for number, found in sorted(self._objects.items())
            ],
        }
        path = self._folder / "tracks.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path
