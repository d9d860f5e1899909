"""From cues to evidence: logistic regressions over what each pixel and its superpixel show.

The first look has only the box and the clicks; each later look also has the labels so far ("auto-context", Tu and Bai,
IEEE TPAMI 32, 2010), from which colour models are made anew, as GrabCut does.
"""

import cv2
import numpy as np

from cutout_server.models.builtin.scene import Field, Scene, Term

_GUESS = (0.8, 0.4)  # Share of object within the ellipse of a box, and in its corners.


def first_terms(scene: Scene) -> list[Term]:
    """Cues of a scene alone, in the order of the coefficients."""
    inner, corner = _GUESS
    guess = np.where(scene.reach < 1, np.where(scene.radial < 1, inner, corner), 0).astype(np.float32)
    mean_guess = scene.superpixels.mean(guess) - np.float32(0.4)
    return [*_common(scene), *(matrix @ mean_guess for matrix in scene.affinities)]


def next_terms(scene: Scene, labels: Field) -> list[Term]:
    """Cues of a scene with (h, w) labels in [0, 1] so far."""
    ratio = scene.palette.log_ratio(labels**2, (1 - labels) ** 2)
    side = float(max(scene.box[2] - scene.box[0], scene.box[3] - scene.box[1], 8))
    around = [cv2.GaussianBlur(labels, (0, 0), side * part) - np.float32(0.5) for part in (0.02, 0.08)]
    mean_labels = scene.superpixels.mean(labels) - np.float32(0.5)
    votes = (matrix @ mean_labels for matrix in scene.affinities)
    return [
        *_common(scene),
        *votes,
        ratio,
        scene.superpixels.mean(np.tanh(ratio / 2)),
        labels - np.float32(0.5),
        *(np.asarray(field, np.float32) for field in around),
    ]


def _common(scene: Scene) -> list[Term]:
    return [
        np.ones(scene.superpixels.count, np.float32),
        scene.contrast,
        scene.superpixels.mean(np.tanh(scene.contrast)),
        scene.from_outside,
        scene.radial**2,
        scene.reach,
        np.maximum(scene.reach - np.float32(0.8), 0),
        *scene.seed_terms,
    ]


def weigh(scene: Scene, terms: list[Term], coefficients: tuple[float, ...]) -> Field:
    """The weighted sum of terms.

    Returns:
        (h, w) float32 log odds of inside.
    """
    regions = np.zeros(scene.superpixels.count, np.float32)
    pixels = np.zeros(scene.size, np.float32)
    for term, coefficient in zip(terms, coefficients, strict=True):
        if term.ndim == 1:
            regions += np.float32(coefficient) * term
        else:
            pixels += np.float32(coefficient) * term
    return pixels + scene.spread(regions)
