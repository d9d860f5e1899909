"""What callers get, with the ways to keep it: files, other tools' forms, notebooks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from cutout_client.answer import Answer
from cutout_client.coco import CocoDataset
from cutout_client.drawing import ground_of
from cutout_client.notebooks import Shown
from cutout_client.objects import SegmentedObject, drawn
from cutout_client.saving import save


@dataclass(frozen=True)
class Segmentation(Answer, Shown):
    """An answer: a sequence of its objects.

    Attributes:
        objects: Sorted by prompt for boxes and points, by score otherwise; empty when nothing was found.
        image: The picture as the server saw it.
        omissions: What was made and left out.
        models: Names of the models that made it, in the order in which they ran.
        timings: Where the time went.
        request_id: The id under which the server logged the call.
        overlay_file: The picture with everything drawn on it by the server, when that was asked for; else empty.
        picture: What was asked about.
        concepts: What the whole picture shows; from `analyze` alone.
        rewriting: What became of the phrases; None unless the request asked for rewriting.
        cached: Whether it was made for an equal request before; the server keeps answers only if it was set up to.
        message: The answer as it came, when it came whole.
    """

    def save(
        self, folder: str | PathLike[str], formats: Iterable[str] = ("overlay", "png"), *, name: str = ""
    ) -> list[Path]:
        """Writes files into a folder, which is made when it is missing.

        Args:
            folder: Where to.
            formats: Any of "overlay" (the picture with everything drawn on it), "png" (a mask for each object),
                "cutouts" (each object on a transparent ground), "rle", "polygons", "coco" (JSON), "npz" (arrays), or of
                `exports.EXPORTS`, of which each is a folder in another tool's form.
            name: How the files' names begin. Default: the picture file's own name, or "picture".

        Returns:
            The files.

        Raises:
            ValueError: A format is unknown, or needs what is not here: a picture, or outlines.
        """
        return save(self, Path(folder), formats, name or self.picture.name)

    def to_coco(self) -> list[dict[str, Any]]:
        """The objects as COCO annotations: RLE, [x, y, width, height], area, score; categories as labels come up.

        `CocoDataset` joins several pictures, and names their categories.
        """
        return CocoDataset().add(self.picture.name, self)

    def to_supervision(self) -> Any:
        """`supervision.Detections` with masks; needs the package supervision.

        Classes are numbered as labels come up; where the version of supervision has `data`, `class_name` is there.
        """
        from cutout_client.exports.supervision import to_supervision  # noqa: PLC0415 - optional

        return to_supervision(self)

    def to_fiftyone(self, file: str | PathLike[str], field: str = "cutout") -> Any:
        """A `fiftyone.Sample` with the objects as detections with instance masks; needs the package fiftyone.

        Args:
            file: The picture, where FiftyOne is to read it.
            field: The sample's field that they go into.
        """
        from cutout_client.exports.fiftyone import to_fiftyone  # noqa: PLC0415 - optional

        return to_fiftyone(self, file, field)

    def to_geojson(self) -> dict[str, Any]:
        """The objects as a GeoJSON FeatureCollection, in pixels: x to the right, y down.

        Raises:
            ValueError: There are no polygons: they come by `mask_formats=["rle", "polygons"]`.
        """
        from cutout_client.exports.geojson import to_geojson  # noqa: PLC0415 - optional

        return to_geojson(self)

    def to_label_map(self, by: Literal["class", "object"] = "class") -> NDArray[np.int32]:
        """(H, W) int32: 0 for the ground, else from 1 on the number of the class, as labels come up, or of the object.

        Where objects overlap the smallest is in front.
        """
        from cutout_client.exports.label_map import label_map  # noqa: PLC0415 - optional

        return label_map(self, by)

    def _shown(self) -> tuple[PIL.Image.Image, Sequence[SegmentedObject], str]:
        if self.overlay_file and not self.picture.is_here:
            image = self.overlay()
        else:
            image = drawn(ground_of(self.picture, (self.image.height, self.image.width)), self.objects)
        found = "" if self.objects else "nothing found"
        left_out = f"left out: {self.left_out}" if self.omissions else ""
        return image, self.objects, "; ".join(filter(None, (found, left_out)))
