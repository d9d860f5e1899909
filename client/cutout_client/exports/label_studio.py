"""Label Studio's tasks with predictions: brush masks or polygons, and the labelling configuration that they need."""

from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from cutout_common.disks import write

from cutout_client.answer import Answer
from cutout_client.exports.classes import Classes, name_of
from cutout_client.exports.lines import line_of
from cutout_client.objects import SegmentedObject, mask_of
from cutout_client.saving import write_json

_RUN_BITS = (3, 4, 8, 16)  # of the lengths of runs; the shortest that holds one is taken


class LabelStudio:
    """tasks.json, to be imported, and config.xml, the project's labelling configuration.

    A polygon is a region for each part, with cuts of no width to its holes, which Label Studio's polygons have not.
    """

    def __init__(self, folder: Path, *, polygons: bool = False) -> None:
        self._folder = folder
        self._polygons = polygons
        self._classes = Classes()
        self._tasks: list[dict[str, Any]] = []

    def add(self, file_name: str, result: Answer) -> None:
        """See `Dataset`."""
        for each in result:
            self._classes.number(each)
        regions = [region for each in result for region in self._regions(each, result)]
        for number, region in enumerate(regions):
            region["id"] = f"cutout-{number}"
        score = float(result.scores.mean()) if len(result) else 0.0
        prediction = {"model_version": "+".join(result.models), "score": score, "result": regions}
        self._tasks.append({"data": {"image": file_name}, "predictions": [prediction]})

    def save(self) -> list[Path]:
        """See `Dataset`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        view = ET.Element("View")
        ET.SubElement(view, "Image", name="image", value="$image", zoom="true")
        labels = ET.SubElement(view, "PolygonLabels" if self._polygons else "BrushLabels", name="label", toName="image")
        for name in self._classes.names.values():
            ET.SubElement(labels, "Label", value=name)
        config = self._folder / "config.xml"
        write(config, ET.tostring(view, "utf-8"))
        return [*write_json(self._folder / "tasks.json", self._tasks), config]

    def _regions(self, each: SegmentedObject, result: Answer) -> list[dict[str, Any]]:
        width, height = result.image.width, result.image.height
        kind = "polygonlabels" if self._polygons else "brushlabels"
        values: list[dict[str, Any]] = [{"format": "rle", "rle": brush_rle(mask_of(each))}]
        if self._polygons:
            percent = 100 / np.array([width, height])
            values = [{"points": (line_of(part) * percent).tolist(), "closed": True} for part in each.polygons]
        common = {"type": kind, "from_name": "label", "to_name": "image", "score": each.score}
        common |= {"original_width": width, "original_height": height, "image_rotation": 0}
        return [common | {"value": value | {kind: [name_of(each)]}} for value in values]


def brush_rle(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """A mask as Label Studio's brush stores it: RGBA with 255 inside, packed by thi.ng's rle-pack.

    Args:
        mask: (H, W) bool.

    Returns:
        Bytes: the number of values, the bits of a value and of four lengths of runs, then the runs.
    """
    bits = [f"{4 * mask.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    value = bool(flat[0])
    for length in np.diff(ends, prepend=0).tolist():
        bits += _run(4 * length, 255 * value)
        value = not value
    packed = np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")
    return list(np.packbits(packed).tolist())


def _run(length: int, value: int) -> list[str]:
    whole, rest = divmod(length, 1 << _RUN_BITS[-1])
    lengths = [1 << _RUN_BITS[-1]] * whole + [rest] * bool(rest)
    coded = []
    for each, count in ((each, len(list(same))) for each, same in groupby(lengths)):
        index = next(i for i, size in enumerate(_RUN_BITS) if each <= 1 << size)
        coded += [f"1{index:02b}{each - 1:0{_RUN_BITS[index]}b}{value:08b}"] * count
    return coded
