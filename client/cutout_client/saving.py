"""Results as files."""

import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from cutout_common.disks import write
from numpy.typing import NDArray

from cutout_client.answer import Answer
from cutout_client.coco import CocoDataset
from cutout_client.concepts import Concepts
from cutout_client.exports import EXPORTS
from cutout_client.keywords import choose
from cutout_client.marks import is_ours, marked
from cutout_client.messages import words
from cutout_client.objects import SegmentedObject


def save(result: Answer, folder: Path, formats: Iterable[str], name: str) -> list[Path]:
    """Writes files that begin with `name` into the folder.

    Raises:
        ValueError: A format is unknown.
    """
    listed = words("formats", formats)
    for form in listed:
        choose("formats", form, FORMATS)
    folder.mkdir(parents=True, exist_ok=True)
    return [path for form in listed for path in FORMATS[form](result, folder, name)]


def _overlay(result: Answer, folder: Path, name: str) -> list[Path]:
    path = folder / f"{name}.overlay.png"
    write(path, _png_of(result.overlay()))
    return [path]


def _png(result: Answer, folder: Path, name: str) -> list[Path]:
    return _numbered("mask", result, [each.png for each in result], folder, name)


def _cutouts(result: Answer, folder: Path, name: str) -> list[Path]:
    return _numbered("cutout", result, [_png_of(picture) for picture in result.cutouts()], folder, name)


def _numbered(kind: str, result: Answer, files: Sequence[bytes], folder: Path, name: str) -> list[Path]:
    """One file for each object, in place of all that were written under this name before: there may have been more."""
    earlier = re.compile(rf"{re.escape(name)}\.\d{{3,}}(-\w+)?\.{kind}\.png")
    for path in folder.iterdir():
        if earlier.fullmatch(path.name) and is_ours(path):
            path.unlink()
    paths = [folder / f"{name}.{_tag(number, each)}.{kind}.png" for number, each in enumerate(result)]
    for path, content in zip(paths, files, strict=True):
        write(path, marked(content))
    return paths


def _png_of(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _rle(result: Answer, folder: Path, name: str) -> list[Path]:
    return write_json(folder / f"{name}.rle.json", [_described(each) | {"rle": each.rle} for each in result.objects])


def _polygons(result: Answer, folder: Path, name: str) -> list[Path]:
    outlines = [
        _described(each)
        | {
            "polygons": [
                {"exterior": outline.exterior.tolist(), "holes": [hole.tolist() for hole in outline.holes]}
                for outline in each.polygons
            ]
        }
        for each in result.objects
    ]
    return write_json(folder / f"{name}.polygons.json", outlines)


def _coco(result: Answer, folder: Path, name: str) -> list[Path]:
    dataset = CocoDataset()
    dataset.add(result.picture.file_name or f"{name}{result.picture.ending}", result)
    return write_json(folder / f"{name}.coco.json", dataset.to_dict())


def _npz(result: Answer, folder: Path, name: str) -> list[Path]:
    path = folder / f"{name}.npz"
    labels = np.array(result.labels, str)
    described: dict[str, Any] = {}
    if result.concepts:
        names = [each.concept for each in sorted(result.concepts, key=lambda each: each.concept_index)]
        described = {
            "concepts": np.array(names, str),
            "picture_concept_scores": _scores(result.concepts),
            "concept_scores": np.array([_scores(each.concepts) for each in result], np.float32).reshape(-1, len(names)),
        }
    content = io.BytesIO()
    np.savez_compressed(
        content, masks=result.masks, boxes=result.boxes, labels=labels, scores=result.scores, **described
    )
    write(path, content.getvalue())
    return [path]


def _scores(concepts: Concepts | None) -> NDArray[np.float32]:
    """(C,) float32, in the order of the request."""
    ordered = sorted(concepts or (), key=lambda each: each.concept_index)
    return np.array([each.score for each in ordered], np.float32)


FORMATS: dict[str, Callable[[Answer, Path, str], list[Path]]] = {
    "overlay": _overlay,
    "png": _png,
    "cutouts": _cutouts,
    "rle": _rle,
    "polygons": _polygons,
    "coco": _coco,
    "npz": _npz,
    **{form: partial(export.save, form=form) for form, export in EXPORTS.items()},
}


def _described(each: SegmentedObject) -> dict[str, Any]:
    described = {"label": each.label, "score": each.score, "box": list(each.box), "area": each.area}
    return described | ({"concepts": each.concepts.to_dict()} if each.concepts else {})


def _tag(number: int, each: SegmentedObject) -> str:
    """Such as `003-remote_control`: safe in file names whatever the phrase."""
    label = re.sub(r"[^\w]+", "_", each.name).strip("_")[:40]
    return f"{number:03}-{label}" if label else f"{number:03}"


def write_json(path: Path, content: Any) -> list[Path]:
    """Writes one file."""
    write(path, json.dumps(content).encode())
    return [path]
