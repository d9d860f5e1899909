"""Photographs with true masks, on which the built-in model's network was not trained."""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from cutout_server.types import BoolMask, RgbImage
from PIL import Image

_TRUTH = Path(__file__).parent / "ground_truth"
_SMALLEST = 100  # Pixels of an object.
_OF_A_SET = 60  # Objects at most.
_PASTED = (
    ("astronaut", "woman", "coffee"),
    ("astronaut", "shuttle", "motorcycle_left"),
    ("coffee", "cup", "chelsea"),
    ("coffee", "saucer with cup", "astronaut"),
    ("rocket", "rocket", "motorcycle_left"),
    ("chelsea", "cat", "rocket"),
    ("motorcycle_left", "motorcycle", "rocket"),
    ("motorcycle_left", "tank", "astronaut"),
)


@dataclass(frozen=True)
class Case:
    """One object of one picture.

    Attributes:
        source: What the picture belongs to.
        name: Of the object.
        pixels: (H, W, 3) uint8 RGB.
        truth: (H, W) bool.
        known: (H, W) bool, where the truth is known.
    """

    source: str
    name: str
    pixels: RgbImage
    truth: BoolMask
    known: BoolMask


def of_scikit_image() -> Iterator[Case]:
    """Objects traced by hand; the same with noise, blur and JPEG's losses; and pasted on other photographs."""
    traced = dict(_traced())
    for (photograph, name), (pixels, truth) in traced.items():
        yield Case("traced", f"{photograph}/{name}", pixels, truth, np.ones_like(truth))
    rng = np.random.default_rng(0)
    for (photograph, name), (pixels, truth) in traced.items():
        for kind, spoil in _SPOILT.items():
            yield Case("spoilt", f"{photograph}/{name}/{kind}", spoil(pixels, rng), truth, np.ones_like(truth))
    for photograph, name, onto in _PASTED:
        pixels, truth = _paste(*traced[photograph, name], _photograph(onto))
        yield Case("pasted", f"{photograph}/{name}/{onto}", pixels, truth, np.ones_like(truth))


def of_folder(folder: Path, *, held: bool) -> Iterator[Case]:
    """Objects of a folder as training/README.md describes it: of its split `val`, and of sets that training leaves out.

    Args:
        folder: Holds index.jsonl.
        held: The half of `val` that no decision looked at, instead of the other half.
    """
    counts: dict[str, int] = {}
    for line in (folder / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["split"] != "val" or row["tier"] not in {"A", "A2"}:
            continue
        if zlib.crc32(row["file"].encode()) % 2 != held:
            continue
        pixels = np.asarray(Image.open(folder / row["file"]).convert("RGB"))
        numbers = np.asarray(Image.open(folder / row["mask"]))
        # Where groups are told, they are the things that people point at, and their parts are not.
        wanted = [group["ids"] for group in row.get("groups", ())] or [[each["id"]] for each in row["objects"]]
        for ids in wanted:
            truth = np.isin(numbers, ids)
            count = counts.setdefault(row["set"], 0)
            if truth.sum() >= _SMALLEST and count < _OF_A_SET:
                counts[row["set"]] = count + 1
                yield Case(row["set"], f"{row['file']}/{ids[0]}", pixels, truth, numbers != 255)


def _traced() -> Iterator[tuple[tuple[str, str], tuple[RgbImage, BoolMask]]]:
    for path in sorted(_TRUTH.glob("*.json")):
        pixels = _photograph(path.stem)
        for name, parts in json.loads(path.read_text())["objects"].items():
            mask = np.zeros(pixels.shape[:2], np.uint8)
            for part in parts:  # Vertices are on pixel corners; OpenCV's are at pixel centres, in sixteenths here.
                cv2.fillPoly(mask, [np.round((np.array(part) - 0.5) * 16).astype(np.int32)], 1, shift=4)
            yield (path.stem, name), (pixels, mask.astype(np.bool_))


def _photograph(stem: str) -> RgbImage:
    folder = Path(skimage.data.__file__).parent
    path = next(path for path in folder.glob(f"{stem}.*") if path.suffix in {".png", ".jpg"})
    return np.asarray(Image.open(path).convert("RGB"))


def _noise(pixels: RgbImage, rng: np.random.Generator) -> RgbImage:
    return (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)


def _blur(pixels: RgbImage, rng: np.random.Generator) -> RgbImage:  # noqa: ARG001
    return cv2.GaussianBlur(pixels, (0, 0), 1.5)


def _jpeg(pixels: RgbImage, rng: np.random.Generator) -> RgbImage:  # noqa: ARG001
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR)


_SPOILT: dict[str, Callable[[RgbImage, np.random.Generator], RgbImage]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
}


def _paste(pixels: RgbImage, truth: BoolMask, onto: RgbImage) -> tuple[RgbImage, BoolMask]:
    """The object at half the height of another photograph, in its middle, with soft edges.

    The mask is where it covers more than half.
    """
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = onto.shape[:2]
    scale = min(0.6 * height / (np.ptp(rows) + 1), 0.6 * width / (np.ptp(columns) + 1))
    size = max(1, round((np.ptp(columns) + 1) * scale)), max(1, round((np.ptp(rows) + 1) * scale))
    cutout = cv2.resize(pixels[part], size, interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = cv2.resize(truth[part].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    full = np.zeros((height, width), np.float32)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    full[top : top + size[1], left : left + size[0]] = alpha
    picture = onto.astype(np.float32)
    place = picture[top : top + size[1], left : left + size[0]]
    place[:] = alpha[..., None] * cutout + (1 - alpha[..., None]) * place
    return picture.round().astype(np.uint8), full > 0.5
