"""One object: from a box or a guess to labels and an estimate of their quality."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin import coefficients, quality
from cutout_server.models.builtin.cut import cut
from cutout_server.models.builtin.evidence import first_terms, next_terms, weigh
from cutout_server.models.builtin.scene import Field, Scene

Traits = NDArray[np.float32]

_LOOKS = 2  # After the first; more change little.
_REACH = 1.12  # A box is drawn by hand: the object may go this far beyond half its side.
_EVIDENCE_WEIGHT = 0.2
_MAX_EVIDENCE = 4.0
_MAX_ODDS = 30.0  # Log odds beyond which exp would leave float32's range of use.
_FALLBACK_QUALITY = 0.1  # Of a box that is taken as it is.
CERTAIN = 50.0  # Evidence that nothing outweighs.


@dataclass(frozen=True)
class Outcome:
    """What one object looks like.

    Attributes:
        scene: Where it was looked for.
        labels: (h, w) float32 in [0, 1]; above 0.5 is inside.
        quality: Expected IoU with the truth, in [0, 1].
    """

    scene: Scene = field(repr=False)
    labels: Field = field(repr=False)
    quality: float


def within_box(scene: Scene, bias: float = 0.0) -> Outcome:
    """The object in the scene's box.

    Args:
        scene: Its box bounds the object.
        bias: Log odds added at the first look: more makes larger objects.
    """
    outside = ~within_reach(scene)
    odds = weigh(scene, first_terms(scene), coefficients.FIRST) + np.float32(bias)
    start = settle(scene, odds, outside)
    outcome = _look_again(scene, start, outside, coefficients.NEXT_BOX, None)
    return _something(outcome, scene.reach <= 1)


def from_guess(
    scene: Scene, guess: Field, *, bounded: bool = False, bias: float = 0.0, traits: Traits | None = None
) -> Outcome:
    """The object of which something is already known.

    Args:
        scene: Its box is around the guess.
        guess: (h, w) float32 labels in [0, 1].
        bounded: The scene's box bounds the object.
        bias: Log odds added at the first look: more makes larger objects.
        traits: Of the guess, when it grew from clicks; see `clicks.traits`.
    """
    outside = ~within_reach(scene) if bounded else np.zeros(scene.size, np.bool_)
    outcome = _look_again(scene, guess, outside, coefficients.NEXT_FREE, traits, bias)
    return _something(outcome, ~outside & (guess > 0.5))


def _something(outcome: Outcome, known: NDArray[np.bool_]) -> Outcome:
    """The outcome, or what was known beforehand when nothing stands out in a scene."""
    if (outcome.labels > 0.5).any():
        return outcome
    scene = outcome.scene
    filled = ((known | (scene.seeds > 0)) & (scene.seeds >= 0)).astype(np.float32)
    return Outcome(scene, filled, _FALLBACK_QUALITY)


def _look_again(
    scene: Scene,
    labels: Field,
    outside: NDArray[np.bool_],
    weights: tuple[float, ...],
    guess_traits: Traits | None,
    bias: float = 0.0,
) -> Outcome:
    for look in range(_LOOKS):
        before = labels
        odds = weigh(scene, next_terms(scene, labels), weights)
        labels = settle(scene, odds if look else odds + np.float32(bias), outside)
    seen = quality.traits(scene, labels, before, odds)
    if guess_traits is None:
        return Outcome(scene, labels, score(seen, coefficients.QUALITY_BOX))
    return Outcome(scene, labels, score(np.concatenate([seen, guess_traits[1:]]), coefficients.QUALITY_GUESS))


def score(traits: Traits, weights: tuple[float, ...]) -> float:
    """Expected IoU of a mask with these traits."""
    return float(1 / (1 + np.exp(-(traits @ np.array(weights, np.float32)))))


def within_reach(scene: Scene) -> NDArray[np.bool_]:
    """(h, w) where an object may be that has been boxed."""
    return np.asarray(scene.reach <= _REACH)


def settle(scene: Scene, odds: Field, outside: NDArray[np.bool_]) -> Field:
    """The cut for (h, w) log odds, with clicks and what is outside decided beforehand."""
    evidence = np.clip(odds, -_MAX_EVIDENCE, _MAX_EVIDENCE) * np.float32(_EVIDENCE_WEIGHT)
    evidence[outside] = -CERTAIN
    evidence[scene.seeds != 0] = CERTAIN * scene.seeds[scene.seeds != 0]
    start = 1 / (1 + np.exp(-np.clip(odds, -_MAX_ODDS, _MAX_ODDS)))
    return cut(evidence, scene.edges, start.astype(np.float32))
