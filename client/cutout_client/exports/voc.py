"""Pascal VOC: boxes as XML, classes and objects as label maps."""

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

from cutout_common.disks import write

from cutout_client.answer import Answer
from cutout_client.exports.classes import Classes, name_of
from cutout_client.exports.label_map import PALETTE, label_map, palette_png


class Voc:
    """Annotations/, SegmentationClass/, SegmentationObject/, ImageSets/Segmentation/default.txt and labelmap.txt.

    The pictures belong into JPEGImages/.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._classes = Classes(first=1)
        self._files: list[Path] = []
        self._names: list[str] = []

    def add(self, file_name: str, result: Answer) -> None:
        """See `Dataset`."""
        name = PurePosixPath(file_name).with_suffix("").as_posix()
        of_objects = palette_png(label_map(result, "object"))
        self._write(f"SegmentationClass/{name}.png", palette_png(label_map(result, classes=self._classes)))
        self._write(f"SegmentationObject/{name}.png", of_objects)
        self._write(f"Annotations/{name}.xml", _annotation(file_name, result))
        self._names.append(name)

    def save(self) -> list[Path]:
        """See `Dataset`."""
        self._write("ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in self._names).encode())
        classes = [(0, "background"), *self._classes.names.items()]
        rows = [f"{name}:{','.join(map(str, PALETTE[number]))}::" for number, name in classes]
        self._write("labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows, ""]).encode())
        return self._files

    def _write(self, place: str, content: bytes) -> None:
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
        self._files.append(path)


def _annotation(file_name: str, result: Answer) -> bytes:
    root = ET.Element("annotation")
    path = PurePosixPath(file_name)
    _texts(root, folder=path.parent.as_posix(), filename=path.name)
    _texts(ET.SubElement(root, "size"), width=result.image.width, height=result.image.height, depth=3)
    _texts(root, segmented=1)
    for each in result:
        found = ET.SubElement(root, "object")
        _texts(found, name=name_of(each), pose="Unspecified", truncated=0, difficult=0, score=f"{each.score:.4f}")
        x_min, y_min, x_max, y_max = map(int, each.box)
        # The first pixel is 1, and the last one inside.
        _texts(ET.SubElement(found, "bndbox"), xmin=x_min + 1, ymin=y_min + 1, xmax=x_max, ymax=y_max)
    content: bytes = ET.tostring(root, "utf-8")
    return content


def _texts(parent: ET.Element, **texts: object) -> None:
    for name, text in texts.items():
        ET.SubElement(parent, name).text = str(text)
