"""YOLO's segmentation labels, as Ultralytics reads them: a line for each object, a file for each picture."""

import json
from pathlib import Path, PurePosixPath

import numpy as np
from cutout_common.disks import write

from cutout_client.answer import Answer
from cutout_client.exports.classes import Classes
from cutout_client.exports.lines import line_of_all, text_of


class Yolo:
    """labels/**.txt and data.yaml; the pictures belong into images/, under the names that labels/ has.

    Coordinates are fractions of the picture's width and height. The parts of an object are joined by cuts of no width,
    as in Ultralytics' own converter.
    """

    def __init__(self, folder: Path, *, polygons: bool = True) -> None:
        del polygons  # there is no other way
        self._folder = folder
        self._classes = Classes()
        self._files: list[Path] = []

    def add(self, file_name: str, result: Answer) -> None:
        """See `Dataset`."""
        size = np.array([result.image.width, result.image.height])
        rows = [
            " ".join([str(self._classes.number(each)), *text_of(line_of_all(each.polygons) / size, digits=6)])
            for each in result
        ]
        path = self._folder / "labels" / PurePosixPath(file_name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, "".join(f"{row}\n" for row in rows).encode())
        self._files.append(path)

    def save(self) -> list[Path]:
        """See `Dataset`."""
        path = self._folder / "data.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [f"  {number}: {json.dumps(name)}" for number, name in self._classes.names.items()]
        write(path, "\n".join(["train: images", "val: images", "names:", *names, ""]).encode())
        return [*self._files, path]
