"""A program: reads a dataset as another tool does, and writes what that found there, as JSON, after "FOUND".

Run by `test_exports_read.py` with the tools' own packages in front of ours, some of which are of other versions.

{picture: [[label, COCO's compressed RLE as text], ...]}, pictures by their names without suffix.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from cutout_client import Client
from pycocotools import mask as coco_mask

WORDS = ["face", "person", "cat face"]
Found = tuple[str, str, np.ndarray]  # picture, label, (H, W) mask


def datumaro(folder: Path, form: str) -> Iterator[Found]:
    """Polygons are filled as its own transform does."""
    import datumaro as dm  # noqa: PLC0415

    dataset = dm.Dataset.import_from(str(folder), form).transform("polygons_to_masks")
    names = dataset.categories()[dm.AnnotationType.label]
    for item in dataset:
        yield from (
            (item.id, names[each.label].name, each.image) for each in item.annotations if hasattr(each, "image")
        )


def ultralytics(folder: Path, _: str) -> Iterator[Found]:
    """As for training."""
    from ultralytics.data.dataset import YOLODataset  # noqa: PLC0415
    from ultralytics.data.utils import check_det_dataset  # noqa: PLC0415

    data = check_det_dataset(str(folder / "data.yaml"), autodownload=False)
    for row in YOLODataset(data["train"], data=data, task="segment", augment=False).labels:
        picture = Path(row["im_file"]).relative_to(folder / "images").with_suffix("").as_posix()
        for number, outline in zip(row["cls"].ravel(), row["segments"], strict=True):
            mask = np.zeros(row["shape"], np.uint8)
            cv2.fillPoly(mask, [(outline * row["shape"][::-1]).round().astype(np.int32)], 1)
            yield picture, data["names"][int(number)], mask


def supervision(folder: Path, form: str) -> Iterator[Found]:
    """Its readers of datasets."""
    import supervision as sv  # noqa: PLC0415

    images = str(folder / "images")
    if form == "yolo":
        dataset = sv.DetectionDataset.from_yolo(
            images, str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
        )
    else:
        dataset = sv.DetectionDataset.from_coco(images, str(folder / "annotations.json"), force_masks=True)
    for path, _, detections in dataset:
        for _, mask, _, number, *_ in detections:
            yield Path(path).relative_to(images).with_suffix("").as_posix(), dataset.classes[number], mask


def fiftyone(folder: Path, _: str) -> Iterator[Found]:
    """Its importer of COCO, and its own way from a detection to a picture's mask."""
    import fiftyone.utils.coco as importers  # noqa: PLC0415

    labels, pictures = str(folder / "annotations" / "instances_default.json"), folder / "images" / "default"
    with importers.COCODetectionDatasetImporter(None, str(pictures), labels, "segmentations") as importer:
        for path, picture, found in importer:
            stem = Path(path).relative_to(pictures).with_suffix("").as_posix()
            for each in found.detections if found else ():
                size = (picture.width, picture.height)
                yield stem, each.label, each.to_segmentation(frame_size=size, target=255).mask


def to_supervision(picture: Path, address: str) -> Iterator[Found]:
    """Our own conversion: its annotators take labels and masks from it."""
    import supervision as sv  # noqa: PLC0415

    with Client(address) as client:
        detections = client.segment_text(picture, WORDS).to_supervision()
    scene = cv2.imread(str(picture))
    drawn = sv.LabelAnnotator().annotate(sv.MaskAnnotator().annotate(scene.copy(), detections), detections)
    assert (drawn != scene).any()
    for _, mask, score, number, _, data in detections:
        assert 0 < score <= 1
        assert data["class_name"] == detections.data["class_name"][detections.class_id == number][0]
        yield picture.stem, data["class_name"], mask


def to_fiftyone(picture: Path, address: str) -> Iterator[Found]:
    """Our own conversion, into a sample that goes as JSON to its database and comes back."""
    import fiftyone as fo  # noqa: PLC0415

    with Client(address) as client:
        result = client.segment_text(picture, WORDS)
    sample = fo.Sample.from_json(result.to_fiftyone(picture, field="found").to_json())
    assert sample.filepath == str(picture)
    size = (result.image.width, result.image.height)
    for each in sample.found.detections:
        assert 0 < each.confidence <= 1
        yield picture.stem, each.label, each.to_segmentation(frame_size=size, target=255).mask


def main() -> None:
    """Of the lines of stdin, each a reader, a place and a form or a server, all that is found, in their order."""
    for line in sys.stdin:
        reader, place, form = line.split()
        pictures: dict[str, list[list[str]]] = defaultdict(list)
        for picture, label, mask in globals()[reader](Path(place), form):
            rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            pictures[picture].append([label, rle["counts"].decode()])
        sys.stdout.write(f"FOUND {json.dumps(pictures)}\n")


if __name__ == "__main__":
    main()
