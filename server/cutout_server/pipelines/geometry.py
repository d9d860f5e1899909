"""What can be checked about a prompt only once the picture's size is known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from cutout_common.status import FieldViolation

from cutout_server.errors import InvalidRequestError
from cutout_server.types import Box, ObjectPrompt, Picture, PromptsRequest


def fit(request: PromptsRequest, picture: Picture) -> tuple[ObjectPrompt, ...]:
    """The prompts with their boxes clipped to the picture.

    Raises:
        InvalidRequestError: A point lies outside, or nothing of a box is left.
    """
    violations: list[FieldViolation] = []
    prompts = []
    for index, prompt in enumerate(request.prompts):
        path = f"{request.kind}[{index}]"
        violations.extend(_points_outside(prompt, picture, path, single=request.kind == "regions"))
        box = prompt.box and clip(prompt.box, picture)
        if prompt.box and box is None:
            field = path if request.kind == "boxes" else f"{path}.box"
            size = f"{picture.width} x {picture.height}"
            violations.append(
                FieldViolation(field, f"expected a box that overlaps the {size} picture, got {_text(prompt.box)}")
            )
        prompts.append(replace(prompt, box=box))
    if violations:
        raise InvalidRequestError(*violations)
    return tuple(prompts)


def clip(box: Box, picture: Picture) -> Box | None:
    """The part of a box that lies in the picture, or None when there is none."""
    x_min, x_max = (float(v) for v in np.clip([box.x_min, box.x_max], 0, picture.width))
    y_min, y_max = (float(v) for v in np.clip([box.y_min, box.y_max], 0, picture.height))
    return Box(x_min, y_min, x_max, y_max) if x_min < x_max and y_min < y_max else None


def _points_outside(prompt: ObjectPrompt, picture: Picture, path: str, *, single: bool) -> Sequence[FieldViolation]:
    size = np.array([picture.width, picture.height])
    outside = np.flatnonzero(((prompt.points < 0) | (prompt.points >= size)).any(axis=1))
    expected = f"expected 0 <= x < {picture.width} and 0 <= y < {picture.height}"
    return [
        FieldViolation(f"{path}.point" if single else f"{path}.points[{index}]", f"{expected}, got ({x:g}, {y:g})")
        for index, (x, y) in zip(outside, prompt.points[outside], strict=True)
    ]


def _text(box: Box) -> str:
    return f"[{box.x_min:g}, {box.y_min:g}, {box.x_max:g}, {box.y_max:g}]"
