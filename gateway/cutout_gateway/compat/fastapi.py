"""Errors as FastAPI writes them, on which three of the neighbours are built."""

import re
from typing import Any

from cutout_gateway.compat.reading import INVALID


def detail(status: int, text: str, violations: list[tuple[str, str]]) -> Any:
    """`{"detail": text}`; a list of the fields that are wrong when the body has not the documented form."""
    if status != INVALID or not violations:
        return {"detail": text}
    return {
        "detail": [
            {"type": "value_error", "loc": ["body", *_loc(field)], "msg": message} for field, message in violations
        ]
    }


def _loc(field: str) -> list[str | int]:
    """The steps of a path such as `points[0].x`."""
    return [int(step) if step.isdecimal() else step for step in re.findall(r"[^.\[\]]+", field)]
