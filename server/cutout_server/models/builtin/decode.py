"""From one prompt to candidate masks, by what the prompt is made of."""

from dataclasses import replace

import cv2
import numpy as np

from cutout_server.models.base import Candidates
from cutout_server.models.builtin import coefficients
from cutout_server.models.builtin.clicks import Guess, guesses
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.refine import PINNED
from cutout_server.models.builtin.scene import Field, Scene
from cutout_server.models.builtin.segment import Outcome, from_guess, within_box
from cutout_server.models.builtin.window import Window
from cutout_server.types import Box, ObjectPrompt

CANDIDATES = 3
_BOX_MARGIN, _BOX_PIXELS = 0.6, 50_000
_GUESS_MARGIN, _GUESS_PIXELS = 0.5, 28_000
_GUESSES = 5
_SIZES_APART = 1.3  # Guesses whose areas differ by less are the same thing.
_BIASES = (0.0, -1.0, 1.0)
LOGIT = 8.0  # Of a pixel that is certain.
_SMALLEST, _LARGEST = 256, 1024  # Longer side of the logits, in pixels.


def decode(embedding: BuiltinEmbedding, prompt: ObjectPrompt, multimask: bool) -> Candidates:
    """Candidates for one prompt; see `Segmenter.decode`."""
    found = _outcomes(embedding, prompt, CANDIDATES if multimask else 1)
    size = _size(embedding, found)
    logits = np.stack([_logits(embedding, prompt, outcome, size) for outcome in found])
    return Candidates(logits, np.array([outcome.quality for outcome in found], np.float32))


def _outcomes(embedding: BuiltinEmbedding, prompt: ObjectPrompt, count: int) -> list[Outcome]:
    prior = prompt.logits
    if prior is not None and (prior > 0).any():
        return _from_prior(embedding, prompt, prior, count)
    if prompt.box is None and (prompt.labels == 1).any():
        return _from_clicks(embedding, prompt, count)
    scene = box_scene(embedding, prompt)
    return [within_box(scene, bias) for bias in _BIASES[:count]]


def _from_prior(embedding: BuiltinEmbedding, prompt: ObjectPrompt, prior: Field, count: int) -> list[Outcome]:
    height, width = embedding.image_size
    rows, columns = np.flatnonzero((prior > 0).any(1)), np.flatnonzero((prior > 0).any(0))
    y, x = height / prior.shape[0], width / prior.shape[1]
    box = prompt.box or Box(columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y)
    box = _reaching(box, prompt)
    window = Window.around(box, embedding.image_size, _BOX_MARGIN, _BOX_PIXELS)
    scene = Scene.of(embedding.pixels, window, box, prompt.points, prompt.labels)
    inside = 1 / (1 + np.exp(-np.clip(window.sample(prior, embedding.image_size), -LOGIT, LOGIT)))
    return [
        from_guess(scene, inside.astype(np.float32), bounded=prompt.box is not None, bias=b) for b in _BIASES[:count]
    ]


def _from_clicks(embedding: BuiltinEmbedding, prompt: ObjectPrompt, count: int) -> list[Outcome]:
    height, width = embedding.image_size
    parts = (prompt.points / (width, height)).astype(np.float32)
    offered = guesses(embedding.tree, parts, prompt.labels)
    outcomes = []
    for guess in best_guesses(offered):
        scene, labels = grown_scene(embedding, prompt, guess)
        outcomes.append(from_guess(scene, labels, traits=guess.traits))
    outcomes.sort(key=lambda outcome: -outcome.quality)
    outcomes = outcomes[:count]
    while len(outcomes) < count:  # Too little picture for three sizes.
        outcomes.append(replace(outcomes[-1], quality=outcomes[-1].quality * 0.9))
    return outcomes


def best_guesses(offered: list[Guess]) -> list[Guess]:
    """The likeliest, of sizes that differ."""
    weights = np.array(coefficients.GUESS, np.float32)
    kept: list[Guess] = []
    for guess in sorted(offered, key=lambda guess: -float(guess.traits @ weights)):
        apart = np.log(_SIZES_APART)
        if all(abs(guess.log_share - other.log_share) > apart for other in kept):
            kept.append(guess)
    return kept[:_GUESSES]


def grown_scene(embedding: BuiltinEmbedding, prompt: ObjectPrompt, guess: Guess) -> tuple[Scene, Field]:
    """Where a guess is looked at closely, and its (h, w) labels there."""
    height, width = embedding.image_size
    mask = guess.members[embedding.tree.superpixels.labels]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y, x = height / mask.shape[0], width / mask.shape[1]
    box = Box(columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y)
    window = Window.around(_reaching(box, prompt), embedding.image_size, _GUESS_MARGIN, _GUESS_PIXELS)
    scene = Scene.of(embedding.pixels, window, box, prompt.points, prompt.labels)
    return scene, window.sample(mask.astype(np.float32), embedding.image_size) * np.float32(0.8) + np.float32(0.1)


def box_scene(embedding: BuiltinEmbedding, prompt: ObjectPrompt) -> Scene:
    """Where the prompt's box, or the whole picture when it has none, is looked at."""
    height, width = embedding.image_size
    box = _reaching(prompt.box or Box(0, 0, width, height), prompt)
    window = Window.around(box, embedding.image_size, _BOX_MARGIN, _BOX_PIXELS)
    return Scene.of(embedding.pixels, window, box, prompt.points, prompt.labels)


def _reaching(box: Box, prompt: ObjectPrompt) -> Box:
    """The box, or a larger one that holds the clicks inside."""
    inside = prompt.points[prompt.labels == 1]
    if not len(inside):
        return box
    (left, top), (right, bottom) = inside.min(0).tolist(), inside.max(0).tolist()
    return Box(min(box.x_min, left), min(box.y_min, top), max(box.x_max, right), max(box.y_max, bottom))


def _size(embedding: BuiltinEmbedding, outcomes: list[Outcome]) -> tuple[int, int]:
    """(h, w) of logits that keep what the finest window shows, within bounds."""
    height, width = embedding.image_size
    longer = max(height, width)
    wanted = max(max(outcome.scene.window.scale) for outcome in outcomes) * longer
    scale = min(max(wanted, _SMALLEST), _LARGEST) / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def _logits(embedding: BuiltinEmbedding, prompt: ObjectPrompt, outcome: Outcome, size: tuple[int, int]) -> Field:
    logits = outcome.scene.window.paste(soften(outcome.labels), embedding.image_size, size, -LOGIT)
    order = np.argsort(
        -prompt.labels, kind="stable"
    )  # Clicks outside last: where both fall on one spot, less is safer.
    for (x, y), label in zip(prompt.points[order], prompt.labels[order], strict=True):
        _pin(logits, embedding, x, y, inside=bool(label))
    if not (logits > 0).any():  # The object is smaller than any sample, or its clicks contradict each other.
        _pin(logits, embedding, *_middle(prompt, outcome), inside=True)
    return logits


def _middle(prompt: ObjectPrompt, outcome: Outcome) -> tuple[float, float]:
    """Where the object is most likely if it is anywhere: at the first click inside, else in the middle of the box."""
    inside = prompt.points[prompt.labels == 1]
    if len(inside):
        return float(inside[0, 0]), float(inside[0, 1])
    window, box = outcome.scene.window, outcome.scene.box
    x, y = (box[:2] + box[2:]) / 2 / window.scale + (window.left, window.top)
    return float(x), float(y)


def soften(labels: Field) -> Field:
    """(h, w) labels in [0, 1] to logits."""
    return np.asarray(cv2.GaussianBlur(LOGIT * (2 * labels - 1), (0, 0), 0.7), np.float32)


def _pin(logits: Field, embedding: BuiltinEmbedding, x: float, y: float, *, inside: bool) -> None:
    """Decides a pixel: sets the samples around its centre, so that interpolation gives their value there."""
    (height, width), (rows, columns) = logits.shape, embedding.image_size
    column = (min(int(x), columns - 1) + 0.5) * width / columns - 0.5
    row = (min(int(y), rows - 1) + 0.5) * height / rows - 0.5
    left, top = max(int(np.floor(column)), 0), max(int(np.floor(row)), 0)
    logits[top : top + 2, left : left + 2] = 1.5 * PINNED if inside else -1.5 * PINNED
