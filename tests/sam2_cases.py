"""Real photographs of many sizes, and every kind of prompt in two forms: ours and the official predictor's."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cutout_server.types import Box, ObjectPrompt
from skimage import data

PICTURES = {
    "square": data.astronaut,
    "wide": lambda: data.rocket()[100:260],
    "tall": lambda: np.ascontiguousarray(data.chelsea()[:, 100:220]),
    "tiny": lambda: data.coffee()[200:207, 300:305],
    "model's side": lambda: np.kron(data.astronaut(), np.ones((2, 2, 1), np.uint8)),
    "large": lambda: np.kron(data.coffee(), np.ones((4, 4, 1), np.uint8)),
}


@dataclass(frozen=True)
class Case:
    """One prompt in both forms: ours, and the arguments of the predictor's `predict`."""

    prompt: ObjectPrompt
    arguments: dict[str, np.ndarray]


def points(size: tuple[int, int], *shares: tuple[float, float, int]) -> Case:
    height, width = size
    coords = np.array([(x * width, y * height) for x, y, _ in shares], np.float32)
    labels = np.array([label for _, _, label in shares], np.int32)
    return Case(ObjectPrompt(points=coords, labels=labels), {"point_coords": coords, "point_labels": labels})


def box(size: tuple[int, int], *shares: float) -> Case:
    height, width = size
    corners = np.array(shares) * [width, height, width, height]
    return Case(ObjectPrompt(box=Box(*corners)), {"box": corners})


def mask(logits: np.ndarray) -> Case:
    return Case(ObjectPrompt(logits=logits), {"mask_input": logits[None]})


def both(one: Case, other: Case) -> Case:
    first, second = one.prompt, other.prompt
    prompt = ObjectPrompt(
        points=first.points if len(first.points) else second.points,
        labels=first.labels if len(first.labels) else second.labels,
        box=first.box or second.box,
        logits=second.logits if first.logits is None else first.logits,
    )
    return Case(prompt, {**one.arguments, **other.arguments})


# Each takes the picture's size and the logits of an earlier answer.
KINDS: dict[str, Callable[[tuple[int, int], np.ndarray], Case]] = {
    "point": lambda size, _: points(size, (0.4, 0.3, 1)),
    "points": lambda size, _: points(size, (0.4, 0.3, 1), (0.8, 0.7, 0), (0.5, 0.4, 1)),
    "box": lambda size, _: box(size, 0.2, 0.1, 0.7, 0.9),
    "box and points": lambda size, _: both(box(size, 0.2, 0.1, 0.7, 0.9), points(size, (0.5, 0.5, 1), (0.3, 0.2, 0))),
    "mask": lambda _, logits: mask(logits),
    "mask and points": lambda size, logits: both(mask(logits), points(size, (0.6, 0.6, 1))),
    "mask and box": lambda size, logits: both(mask(logits), box(size, 0.1, 0.1, 0.6, 0.8)),
    "mask, box and points": lambda size, logits: both(
        both(mask(logits), box(size, 0.1, 0.1, 0.6, 0.8)), points(size, (0.3, 0.3, 1))
    ),
}
