"""COCO with polygons as the segmentation, and the exact RLE beside them."""

from pathlib import Path

from cutout_client.answer import Answer
from cutout_client.coco import CocoDataset
from cutout_client.saving import write_json


class CocoPolygons:
    """One file, annotations.json."""

    def __init__(self, folder: Path, *, polygons: bool = True) -> None:
        self._folder = folder
        self._dataset = CocoDataset(polygons=polygons)

    def add(self, file_name: str, result: Answer) -> None:
        """See `Dataset`."""
        self._dataset.add(file_name, result)

    def save(self) -> list[Path]:
        """See `Dataset`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return write_json(self._folder / "annotations.json", self._dataset.to_dict())
