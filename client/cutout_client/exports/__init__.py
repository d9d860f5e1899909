"""Results in the forms of other tools: a small file for each, imported when it is asked for.

Datasets are folders in the layout that a tool reads. Each is made with its folder, takes results by `add`, and is whole
after `save`; `EXPORTS` has them by the names that `Segmentation.save` and the command line's `--format` know.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Protocol

from cutout_client.answer import Answer


class Dataset(Protocol):
    """Results on their way into a folder."""

    def add(self, file_name: str, result: Answer) -> None:
        """Takes a picture's objects.

        Args:
            file_name: The picture's, as the dataset is to say it; "/" parts folders.
            result: What was found in it.

        Raises:
            ValueError: The form cannot hold it, or needs polygons that were not asked for.
        """

    def save(self) -> list[Path]:
        """Writes what is about all pictures; gives every file that was written."""


@dataclass(frozen=True)
class Export:
    """How a dataset is made.

    Attributes:
        place: Module and class.
        polygons: Whether it is made of polygons, so that results must have them.
    """

    place: str
    polygons: bool = False

    def __call__(self, folder: str | PathLike[str]) -> Dataset:
        """A dataset with nothing in it."""
        module, name = self.place.split(":")
        make: Callable[..., Dataset] = getattr(import_module(f"{__name__}.{module}"), name)
        return make(Path(folder), polygons=True) if self.polygons else make(Path(folder))

    def save(self, result: Answer, folder: Path, name: str, form: str) -> list[Path]:
        """One picture as a dataset of its own."""
        dataset = self(folder / f"{name}.{form}")
        dataset.add(result.picture.file_name or f"{name}{result.picture.ending}", result)
        return dataset.save()


EXPORTS = {
    "coco-polygons": Export("coco_polygons:CocoPolygons", polygons=True),
    "yolo": Export("yolo:Yolo", polygons=True),
    "label-studio": Export("label_studio:LabelStudio"),
    "label-studio-polygons": Export("label_studio:LabelStudio", polygons=True),
    "cvat": Export("cvat:Cvat"),
    "cvat-polygons": Export("cvat:Cvat", polygons=True),
    "voc": Export("voc:Voc"),
    "label-map": Export("label_map:LabelMaps"),
    "geojson": Export("geojson:GeoJson", polygons=True),
}


def outlined(formats: Iterable[str]) -> bool:
    """Whether any of these formats is made of polygons, so that results must have them."""
    return any(form == "polygons" or (form in EXPORTS and EXPORTS[form].polygons) for form in formats)
