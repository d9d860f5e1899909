"""Fits the built-in model's coefficients to photographs with true masks and prints the module that holds them.

    python benchmarks/builtin_fit.py FOLDER [FOLDER ...] > server/cutout_server/models/builtin/coefficients.py

Each FOLDER has images/NAME.jpg and masks/NAME.png; a mask's pixels hold 0 for the background and another number for
each object. Every folder weighs the same, however many objects it has. Everything is logistic regression, with a little
ridge: per pixel for the evidence, per mask (with its IoU as the target) for the rest.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cutout_server.models.builtin import coefficients, decode, segment
from cutout_server.models.builtin.clicks import guesses
from cutout_server.models.builtin.embedding import BuiltinEmbedding, embed
from cutout_server.models.builtin.evidence import first_terms, next_terms, weigh
from cutout_server.models.builtin.scene import Field, Scene, Term
from cutout_server.types import BoolMask, ObjectPrompt
from PIL import Image
from simulated_prompts import simulate

_BOXES = ("tight box", "loose box", "tight box", "box and clicks", "jittered box")
_CLICKS = ("one click", "five clicks")
_PIXELS = 400  # Drawn from each object.


@dataclass(frozen=True)
class Sample:
    """One object."""

    embedding: BuiltinEmbedding
    truth: BoolMask
    prompts: dict[str, ObjectPrompt]
    weight: float


def main() -> None:
    """Fits step by step: each step works with the coefficients of the steps before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--objects", type=int, default=240, help="most objects of one folder")
    arguments = parser.parse_args()
    samples = [sample for folder in arguments.folders for sample in _read(folder, arguments.objects)]
    print(f"{len(samples)} objects", file=sys.stderr)
    rng = np.random.default_rng(0)
    fitted = {"FIRST": np.zeros(0), "NEXT_BOX": np.zeros(0)}

    boxed = [(sample, _box_scene(sample, _BOXES[i % len(_BOXES)])) for i, sample in enumerate(samples)]
    fitted["FIRST"] = _fit([_pixels(s, scene, first_terms(scene), rng, bounded=True) for s, scene in boxed])
    labels = [_settle(scene, first_terms(scene), fitted["FIRST"], bounded=True) for _, scene in boxed]
    fitted["NEXT_BOX"] = _fit_next(boxed, labels, rng, bounded=True)

    grown = [(s, guesses(s.embedding.tree, *_parts(s, kind)), kind) for s in samples for kind in _CLICKS]
    rows = [
        (guess.traits, _iou(_full(s, guess.members), s.truth), s.weight / len(offered))
        for s, offered, _ in grown
        for guess in offered
    ]
    fitted["GUESS"] = _fit([(traits[None], np.array([iou]), weight) for traits, iou, weight in rows])
    _install(fitted)

    free, starts = [], []
    for s, offered, kind in grown:
        ious = [_iou(_full(s, guess.members), s.truth) for guess in offered]
        best = (
            int(np.argmax(ious))
            if rng.random() < 0.6
            else int(np.argmax([g.traits @ fitted["GUESS"] for g in offered]))
        )
        if ious[best] > 0.25:
            scene, start = decode.grown_scene(s.embedding, s.prompts[kind], offered[best])
            free.append((s, scene))
            starts.append(start)
    fitted["NEXT_FREE"] = _fit_next(free, starts, rng, bounded=False)
    fitted["QUALITY_BOX"], fitted["QUALITY_GUESS"] = np.zeros(10), np.zeros(20)
    _install(fitted)

    seen: list[np.ndarray] = []
    original = segment.score  # What it is asked to score is what has to be fitted.
    segment.score = lambda traits, weights: seen.append(traits) or original(traits, weights)  # type: ignore[func-returns-value]
    rows = []
    for s, scene in boxed:
        for bias in (0.0, -1.0, 1.0):
            outcome = segment.within_box(scene, bias)
            rows.append((seen.pop()[None], np.array([_outcome_iou(s, outcome)]), s.weight))
    fitted["QUALITY_BOX"] = _fit(rows)
    rows = []
    for s, offered, kind in grown:
        for guess in decode.best_guesses(offered):
            scene, start = decode.grown_scene(s.embedding, s.prompts[kind], guess)
            outcome = segment.from_guess(scene, start, traits=guess.traits)
            rows.append((seen.pop()[None], np.array([_outcome_iou(s, outcome)]), s.weight))
    fitted["QUALITY_GUESS"] = _fit(rows)
    _print(fitted)


def _read(folder: Path, most: int) -> list[Sample]:
    objects: list[tuple[Path, int]] = []
    paths = sorted((folder / "masks").glob("*.png"))
    for path in (paths[i] for i in np.random.default_rng(0).permutation(len(paths))):
        ids, sizes = np.unique(np.asarray(Image.open(path)), return_counts=True)
        objects += [(path, int(i)) for i, size in zip(ids, sizes, strict=True) if i and size > 0.01 * sizes.sum()]
        if len(objects) >= most:
            break
    embeddings: dict[Path, BuiltinEmbedding] = {}
    samples = []
    for index, (path, value) in enumerate(objects[:most]):
        if path not in embeddings:
            picture = Image.open(folder / "images" / f"{path.stem}.jpg").convert("RGB")
            embeddings[path] = embed(np.asarray(picture))
        truth = np.asarray(Image.open(path)) == value
        samples.append(Sample(embeddings[path], truth, simulate(truth, index), 1000 / min(len(objects), most)))
    return samples


def _box_scene(sample: Sample, kind: str) -> Scene:
    return decode.box_scene(sample.embedding, sample.prompts[kind])


def _parts(sample: Sample, kind: str) -> tuple[np.ndarray, np.ndarray]:
    prompt, (height, width) = sample.prompts[kind], sample.truth.shape
    return (prompt.points / (width, height)).astype(np.float32), prompt.labels


def _pixels(
    sample: Sample, scene: Scene, terms: list[Term], rng: np.random.Generator, *, bounded: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    window = scene.window
    part = sample.truth[window.top : window.bottom, window.left : window.right].astype(np.float32)
    truth = cv2.resize(part, (window.width, window.height), interpolation=cv2.INTER_AREA) > 0.5
    places = np.flatnonzero(segment.within_reach(scene)) if bounded else np.arange(truth.size)
    drawn = rng.choice(places, _PIXELS)
    regions = scene.superpixels.labels.ravel()[drawn]
    columns = [term[regions] if term.ndim == 1 else term.ravel()[drawn] for term in terms]
    return np.stack(columns, -1), truth.ravel()[drawn], sample.weight / _PIXELS


def _settle(scene: Scene, terms: list[Term], weights: np.ndarray, *, bounded: bool) -> Field:
    outside = ~segment.within_reach(scene) if bounded else np.zeros(scene.size, np.bool_)
    return segment.settle(scene, weigh(scene, terms, tuple(weights)), outside)


def _fit_next(
    scenes: list[tuple[Sample, Scene]], labels: list[Field], rng: np.random.Generator, *, bounded: bool
) -> np.ndarray:
    """One set of coefficients for the second look and those after it."""
    rows: list[tuple[np.ndarray, np.ndarray, float]] = []
    weights = np.zeros(0)
    for _ in range(2):
        terms = [next_terms(scene, label) for (_, scene), label in zip(scenes, labels, strict=True)]
        rows += [_pixels(s, scene, t, rng, bounded=bounded) for (s, scene), t in zip(scenes, terms, strict=True)]
        weights = _fit(rows)
        labels = [_settle(scene, t, weights, bounded=bounded) for (_, scene), t in zip(scenes, terms, strict=True)]
    return weights


def _fit(rows: list[tuple[np.ndarray, np.ndarray, float]], ridge: float = 0.1) -> np.ndarray:
    """Weighted logistic regression by Newton's method; targets may be anything in [0, 1]."""
    terms = np.concatenate([row[0] for row in rows]).astype(float)
    targets = np.concatenate([row[1] for row in rows]).astype(float)
    weights = np.concatenate([np.full(len(row[0]), row[2]) for row in rows])
    fitted = np.zeros(terms.shape[1])
    for _ in range(30):
        expected = 1 / (1 + np.exp(-terms @ fitted))
        curvature = (terms * (weights * expected * (1 - expected))[:, None]).T @ terms + ridge * np.eye(len(fitted))
        fitted -= np.linalg.solve(curvature, terms.T @ (weights * (expected - targets)) + ridge * fitted)
    return fitted


def _full(sample: Sample, members: np.ndarray) -> BoolMask:
    mask = members[sample.embedding.tree.superpixels.labels].astype(np.uint8)
    return cv2.resize(mask, sample.truth.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.bool_)


def _outcome_iou(sample: Sample, outcome: segment.Outcome) -> float:
    height, width = sample.truth.shape
    pasted = outcome.scene.window.paste(outcome.labels, (height, width), (height, width), 0.0)
    return _iou(pasted > 0.5, sample.truth)


def _iou(mask: BoolMask, truth: BoolMask) -> float:
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def _install(fitted: dict[str, np.ndarray]) -> None:
    for name, weights in fitted.items():
        setattr(coefficients, name, tuple(weights.tolist()))


def _lines(fitted: dict[str, np.ndarray]) -> Iterator[str]:
    for name, weights in fitted.items():
        yield f"{name} = (" + ", ".join(f"{weight:.4g}" for weight in weights) + ")"


def _print(fitted: dict[str, np.ndarray]) -> None:
    print(
        '"""Coefficients of the logistic regressions, made by benchmarks/builtin_fit.py; they are explained there."""\n'
    )
    print("\n".join(_lines(fitted)))


if __name__ == "__main__":
    main()
