"""How good the built-in model's masks are, and how long they take, beside GrabCut called naively.

    python benchmarks/builtin_quality.py [--json FILE]

Photographs: scikit-image's, with masks traced by hand (ground_truth/); the same with noise, blur and JPEG's losses; and
the traced objects pasted on other photographs, where the mask is exact. None of them was used to fit the model. Times
are of one prompt on one thread; encoding is counted apart since it is done once for each picture.
"""

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from cutout_server.models.base import DecodeQuery, MaskQuery, ModelFiles
from cutout_server.models.builtin import load
from cutout_server.types import BoolMask, ObjectPrompt, RgbImage
from PIL import Image
from simulated_prompts import KINDS, simulate

_TRUTH = Path(__file__).parent / "ground_truth"
_TOLERANCE = 0.008  # Of the diagonal, as in the DAVIS benchmark (Perazzi et al., CVPR 2016).
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
    """One object of one picture."""

    group: str
    name: str
    pixels: RgbImage
    truth: BoolMask


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write every single result")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = list(_measure())
    objects = len({row["object"] for row in rows})
    versions = f"OpenCV {cv2.__version__}, Python {platform.python_version()}, {platform.machine()}"
    print(f"{objects} objects; {versions}\n")
    _table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def cases() -> Iterator[Case]:
    """Every object, the traced ones first."""
    traced = dict(_traced())
    for (photograph, name), (pixels, truth) in traced.items():
        yield Case("traced", f"{photograph}/{name}", pixels, truth)
    rng = np.random.default_rng(0)
    for (photograph, name), (pixels, truth) in traced.items():
        for kind, spoil in _SPOILT.items():
            yield Case("spoilt", f"{photograph}/{name}/{kind}", spoil(pixels, rng), truth)
    for photograph, name, onto in _PASTED:
        pixels, truth = traced[photograph, name]
        yield Case("pasted", f"{photograph}/{name}/{onto}", *_paste(pixels, truth, _photograph(onto)))


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


def naive(pixels: RgbImage, prompt: ObjectPrompt) -> BoolMask:
    """GrabCut as its tutorial shows it: on the full picture, five iterations, a rectangle or discs as seeds."""
    height, width = pixels.shape[:2]
    labels = np.full((height, width), cv2.GC_PR_BGD if prompt.box is None else cv2.GC_BGD, np.uint8)
    mode, rectangle = cv2.GC_INIT_WITH_MASK, None
    if prompt.box is not None:
        left, top = round(prompt.box.x_min), round(prompt.box.y_min)
        right, bottom = round(prompt.box.x_max), round(prompt.box.y_max)
        labels[top:bottom, left:right] = cv2.GC_PR_FGD
        if not len(prompt.points) and (right - left < width or bottom - top < height):
            mode, rectangle = cv2.GC_INIT_WITH_RECT, (left, top, right - left, bottom - top)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        value = cv2.GC_FGD if label else cv2.GC_BGD
        cv2.circle(labels, (int(x), int(y)), max(2, max(height, width) // 100), int(value), -1)
    cv2.setRNGSeed(0)
    with suppress(cv2.error):  # It found no background, or no foreground: what it was told is all that it knows.
        cv2.grabCut(pixels[..., ::-1].copy(), labels, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 5, mode)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def iou(mask: BoolMask, truth: BoolMask) -> float:
    """Intersection over union, in [0, 1]."""
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def boundary_f(mask: BoolMask, truth: BoolMask) -> float:
    """Harmonic mean of the outlines' precision and recall within a tolerance, in [0, 1]."""
    radius = max(1, round(_TOLERANCE * float(np.hypot(*truth.shape))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    lines = [cv2.morphologyEx(m.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) for m in (mask, truth)]
    if not lines[0].any() or not lines[1].any():
        return 0.0
    near = [cv2.dilate(line, disc) for line in lines]
    precision, recall = (float((lines[i] & near[1 - i]).sum() / lines[i].sum()) for i in (0, 1))
    return 2 * precision * recall / max(precision + recall, 1e-9)


def _measure() -> Iterator[dict[str, object]]:
    model = load(ModelFiles(), "cpu")
    for number, case in enumerate(cases()):
        start = time.perf_counter()
        embedding = model.encode([case.pixels])[0]
        encode_ms = 1000 * (time.perf_counter() - start)
        for kind, prompt in simulate(case.truth, number).items():
            start = time.perf_counter()
            floor = naive(case.pixels, prompt)
            floor_ms = 1000 * (time.perf_counter() - start)
            start = time.perf_counter()
            candidates = model.decode([DecodeQuery(embedding, prompt, False)])[0]
            mask = model.masks([MaskQuery(embedding, candidates.logits[0], 0.0)])[0].whole()
            yield {
                "group": case.group,
                "object": case.name,
                "prompt": kind,
                "naive_iou": iou(floor, case.truth),
                "naive_f": boundary_f(floor, case.truth),
                "naive_ms": floor_ms,
                "iou": iou(mask, case.truth),
                "f": boundary_f(mask, case.truth),
                "ms": 1000 * (time.perf_counter() - start),
                "encode_ms": encode_ms,
                "predicted_iou": float(candidates.predicted_iou[0]),
            }


def _table(rows: list[dict[str, object]]) -> None:
    by = defaultdict(list)
    for row in rows:
        by[row["group"], row["prompt"]].append(row)
    print("| pictures | prompt | n | naive IoU | IoU | naive F | F | naive ms | ms | predicted IoU | its correlation |")
    print("| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |")
    for group in dict.fromkeys(row["group"] for row in rows):
        for kind in KINDS:
            part = by[group, kind]

            def mean(key: str, part: list[dict[str, object]] = part) -> float:
                return float(np.mean([row[key] for row in part]))

            together = np.corrcoef([r["predicted_iou"] for r in part], [r["iou"] for r in part])[0, 1]
            print(
                f"| {group} | {kind} | {len(part)} | {mean('naive_iou'):.3f} | **{mean('iou'):.3f}** "
                f"| {mean('naive_f'):.3f} | **{mean('f'):.3f}** | {mean('naive_ms'):.0f} | {mean('ms'):.0f} "
                f"| {mean('predicted_iou'):.2f} | {together:.2f} |"
            )
    print(f"\nEncoding a picture, once: {np.median([row['encode_ms'] for row in rows]):.0f} ms (median).")


if __name__ == "__main__":
    main()
