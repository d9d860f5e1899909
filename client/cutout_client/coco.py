"""Results in the form of the COCO object detection format, as pycocotools loads it."""

from typing import Any

from cutout_client.answer import Answer
from cutout_client.concepts import Concepts
from cutout_client.exports.classes import name_of
from cutout_client.exports.lines import line_of
from cutout_client.objects import SegmentedObject


class CocoDataset:
    """Collects results into one dataset; categories are numbered as their names first come up.

    An object without a label is of the category of the concept that describes it best. Where there are concepts, images
    and annotations carry all of them as `concepts`, name to score.

    Args:
        polygons: Segmentations are polygons, which the results must have. COCO's have no holes: cuts of no width lead
            to them. The exact mask is beside them, as `rle`.
    """

    def __init__(self, *, polygons: bool = False) -> None:
        self._polygons = polygons
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(self, file_name: str, result: Answer) -> list[dict[str, Any]]:
        """Adds a picture and its objects.

        Args:
            file_name: The picture's, as the dataset is to say it.
            result: What was found in it.

        Returns:
            The annotations that it became.
        """
        image_id = len(self._images) + 1
        self._images.append(
            {"id": image_id, "file_name": file_name, "width": result.image.width, "height": result.image.height}
            | _described(result.concepts)
        )
        annotations = [
            {
                "id": len(self._annotations) + number,
                "image_id": image_id,
                "category_id": self._category(name_of(each)),
                **self._segmentation(each),
                "bbox": [each.box.x_min, each.box.y_min, each.box.width, each.box.height],
                "area": each.area,
                "iscrowd": 0,
                "score": each.score,
            }
            | _described(each.concepts)
            for number, each in enumerate(result.objects, start=1)
        ]
        self._annotations += annotations
        return annotations

    def to_dict(self) -> dict[str, Any]:
        """The dataset: images, annotations, categories."""
        categories = [{"id": number, "name": name} for name, number in self._categories.items()]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}

    def _segmentation(self, each: SegmentedObject) -> dict[str, Any]:
        if not self._polygons:
            return {"segmentation": each.rle}
        return {"segmentation": [line_of(part).ravel().tolist() for part in each.polygons], "rle": each.rle}

    def _category(self, name: str) -> int:
        return self._categories.setdefault(name, len(self._categories) + 1)


def _described(concepts: Concepts | None) -> dict[str, Any]:
    return {"concepts": concepts.to_dict()} if concepts else {}
