"""How good the built-in model's masks are, on photographs that it was not trained on.

    python benchmarks/builtin_quality.py [--photographs FOLDER] [--held] [--json FILE]

Photographs: scikit-image's (`outlined.py`), and those of a folder as training/README.md describes it: half of its split
`val`, or with --held the half that no decision looked at. Beside the model: the box itself, and GrabCut called naively.
Clicks are placed as the field does it: the first in the middle of the object, each further one in the middle of the
largest mistake. Times are of one prompt on one thread.
"""

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from cutout_server.models.builtin import load
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.model import Builtin
from cutout_server.models.queries import DecodeQuery, MaskQuery
from cutout_server.types import BoolMask, Box, ModelFiles, ObjectPrompt, RgbImage
from outlined import Case, of_folder, of_scikit_image
from simulated_prompts import simulate

_TOLERANCE = 0.008  # Of the diagonal, as in the DAVIS benchmark (Perazzi et al., CVPR 2016).
CLICKS = 10
_WANTED = (0.8, 0.85)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="folder with outlined photographs")
    parser.add_argument("--held", action="store_true", help="the half of its split `val` that no decision looked at")
    parser.add_argument("--json", type=Path, help="where to write every single result")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    cases = list(of_scikit_image())
    if arguments.photographs:
        cases += of_folder(arguments.photographs, held=arguments.held)
    model = load(ModelFiles(), "cpu")
    rows = [_measure(model, number, case) for number, case in enumerate(cases)]
    print(f"{len(rows)} objects; OpenCV {cv2.__version__}, Python {platform.python_version()}, {platform.machine()}\n")
    _tables(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def naive(pixels: RgbImage, box: Box) -> BoolMask:
    """GrabCut as its tutorial shows it: on the full picture, five iterations, from a rectangle."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = round(box.x_min), round(box.y_min), round(box.x_max), round(box.y_max)
    labels = np.zeros((height, width), np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    mode = cv2.GC_INIT_WITH_RECT if right - left < width or bottom - top < height else cv2.GC_INIT_WITH_MASK
    cv2.setRNGSeed(0)
    with suppress(cv2.error):  # It found no background, or no foreground: what it was told is all that it knows.
        rectangle = (left, top, right - left, bottom - top)
        cv2.grabCut(pixels[..., ::-1].copy(), labels, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 5, mode)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def iou(mask: BoolMask, case: Case) -> float:
    """Intersection over union where the truth is known, in [0, 1]."""
    both, either = mask & case.truth & case.known, (mask | case.truth) & case.known
    return float(both.sum() / max(either.sum(), 1))


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


def _ask(model: Builtin, embedding: BuiltinEmbedding, prompt: ObjectPrompt) -> tuple[BoolMask, float]:
    """(H, W) mask and the IoU that the model expects of it."""
    (candidates,) = model.decode([DecodeQuery(embedding, prompt, False)])
    (patch,) = model.masks([MaskQuery(embedding, candidates.logits[0], 0.0)])
    return patch.whole(), float(candidates.predicted_iou[0])


def _measure(model: Builtin, number: int, case: Case) -> dict[str, object]:
    (embedding,) = model.encode([case.pixels])
    prompts = simulate(case.truth, number)
    box = prompts["tight box"].box
    assert box is not None
    filled = np.zeros_like(case.truth)
    filled[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = True
    start = time.perf_counter()
    mask, expected = _ask(model, embedding, prompts["tight box"])
    ms = 1000 * (time.perf_counter() - start)
    three = prompts["five clicks"]
    picked = [0, 1, -1] if len(three.points) > 3 else [0]
    three = ObjectPrompt(points=three.points[picked], labels=three.labels[picked])
    clicks = list(_clicked(model, embedding, case))
    return {
        "source": case.source,
        "object": case.name,
        "filled": iou(filled, case),
        "naive": iou(naive(case.pixels, box), case),
        "box": iou(mask, case),
        "f": boundary_f(mask, case.truth),
        "ms": ms,
        "expected": expected,
        "loose": iou(_ask(model, embedding, prompts["loose box"])[0], case),
        "three": iou(_ask(model, embedding, three)[0], case),
        "box and clicks": iou(_ask(model, embedding, prompts["box and clicks"])[0], case),
        "clicks": [each for each, _ in clicks],
        "expected of a click": clicks[0][1],
    }


def _clicked(model: Builtin, embedding: BuiltinEmbedding, case: Case) -> Iterator[tuple[float, float]]:
    """IoU after one click, two, and so on, and what the model expects; each click where the mask is most wrong."""
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    mask, expected = np.zeros_like(case.truth), 0.0
    for _ in range(CLICKS):
        wrong = (mask != case.truth) & case.known
        _, parts, statistics, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=4)
        if len(statistics) > 1:
            largest = parts == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
            depth = cv2.distanceTransform(np.pad(largest, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            points.append((x + 0.5, y + 0.5))
            labels.append(int(case.truth[y, x]))
            prompt = ObjectPrompt(points=np.array(points, np.float32), labels=np.array(labels, np.int32))
            mask, expected = _ask(model, embedding, prompt)
        yield iou(mask, case), expected


def _tables(rows: list[dict[str, object]]) -> None:
    by: dict[str, list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        by[str(row["source"])].append(row)
    by["all"] = rows
    columns = "n | box filled | GrabCut | box | F | loose box | box, 5 clicks | 1 click | 2 in, 1 out"
    columns += " | correlation | of a click | ms"
    print(f"| source | {columns} |\n| --- |{' --: |' * (columns.count('|') + 1)}")
    for source, part in by.items():
        means = [_mean(part, key) for key in ("filled", "naive", "box", "f", "loose", "box and clicks")]
        first = [row["clicks"][0] for row in part]
        ties = [
            np.corrcoef([row["expected"] for row in part], [row["box"] for row in part])[0, 1],
            np.corrcoef([row["expected of a click"] for row in part], first)[0, 1],
        ]
        shown = [*means, float(np.mean(first)), _mean(part, "three"), *ties]
        print(f"| {source} | {len(part)} | {' | '.join(f'{value:.3f}' for value in shown)} | {_median_ms(part):.0f} |")
    print(f"\n| source | {' | '.join(f'{n + 1}' for n in range(CLICKS))} | NoC@80 | NoC@85 |")
    print(f"| --- |{' --: |' * (CLICKS + 2)}")
    for source, part in by.items():
        curves = np.array([row["clicks"] for row in part])
        needed = [_needed(curves, wanted) for wanted in _WANTED]
        print(f"| {source} | {' | '.join(f'{value:.3f}' for value in [*curves.mean(0), *needed])} |")


def _needed(curves: np.ndarray, wanted: float) -> float:
    """Mean number of clicks until an IoU is reached; CLICKS where it is not."""
    reached = curves >= wanted
    return float(np.where(reached.any(1), reached.argmax(1) + 1, CLICKS).mean())


def _mean(rows: list[dict[str, object]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def _median_ms(rows: list[dict[str, object]]) -> float:
    return float(np.median([row["ms"] for row in rows]))


if __name__ == "__main__":
    main()
