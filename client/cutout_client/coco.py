"""Results in the form of the COCO object detection format, as pycocotools loads it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutout_client.concepts import Concepts
    from cutout_client.results import Segmentation

UNLABELLED = "object"  # COCO has no annotation without a category; boxes, points and everything give no label.


class CocoDataset:
    """Collects results into one dataset; categories are numbered as their names first come up.

    An object without a label is of the category of the concept that describes it best. Where there are concepts, images
    and annotations carry all of them as `concepts`, name to score.
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(self, file_name: str, result: "Segmentation") -> list[dict[str, Any]]:
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
                "category_id": self._category(each.name),
                "segmentation": each.rle,
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

    def _category(self, name: str) -> int:
        return self._categories.setdefault(name or UNLABELLED, len(self._categories) + 1)


def _described(concepts: "Concepts | None") -> dict[str, Any]:
    return {"concepts": concepts.to_dict()} if concepts else {}
