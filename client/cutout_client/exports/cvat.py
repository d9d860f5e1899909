"""CVAT's own XML, version 1.1, for images."""

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from cutout_common.disks import write

from cutout_client.answer import Answer
from cutout_client.exports.classes import Classes, name_of
from cutout_client.exports.lines import line_of, text_of
from cutout_client.objects import SegmentedObject, mask_of


class Cvat:
    """annotations.xml, to be uploaded to a task that has the pictures: as "CVAT 1.1".

    Masks are exact; of polygons each part is one, with cuts of no width to its holes, which CVAT's polygons have not.
    """

    def __init__(self, folder: Path, *, polygons: bool = False) -> None:
        self._folder = folder
        self._polygons = polygons
        self._classes = Classes()
        self._images: list[ET.Element] = []

    def add(self, file_name: str, result: Answer) -> None:
        """See `Dataset`."""
        size = {"width": str(result.image.width), "height": str(result.image.height)}
        image = ET.Element("image", {"id": str(len(self._images)), "name": file_name} | size)
        for order, each in enumerate(result):
            self._classes.number(each)
            common = {"label": name_of(each), "source": "auto", "occluded": "0", "z_order": str(order)}
            if self._polygons:
                for part in each.polygons:
                    numbers = text_of(line_of(part))
                    points = ";".join(",".join(point) for point in zip(numbers[::2], numbers[1::2], strict=True))
                    ET.SubElement(image, "polygon", common | {"points": points})
            else:
                ET.SubElement(image, "mask", common | _mask(each))
        self._images.append(image)

    def save(self) -> list[Path]:
        """See `Dataset`."""
        root = ET.Element("annotations")
        ET.SubElement(root, "version").text = "1.1"
        labels = ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels")
        for name in self._classes.names.values():
            label = ET.SubElement(labels, "label")
            ET.SubElement(label, "name").text = name
            ET.SubElement(label, "attributes")
        root.extend(self._images)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "annotations.xml"
        write(path, ET.tostring(root, "utf-8", xml_declaration=True))
        return [path]


def _mask(each: SegmentedObject) -> dict[str, str]:
    """Runs of the mask in its box, row after row, of what is outside first."""
    left, top, right, bottom = map(int, each.box)
    inside = mask_of(each)[top:bottom, left:right].ravel()
    ends = np.append(np.flatnonzero(np.diff(inside, prepend=False)), inside.size)
    box = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    runs = ", ".join(map(str, np.diff(ends, prepend=0).tolist()))
    return {"rle": runs} | {name: str(number) for name, number in box.items()}
