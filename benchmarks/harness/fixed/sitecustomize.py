"""With this folder in PYTHONPATH servers and workers of Ray know the model family `fixed`; Python imports this itself.

It stands for a device that computes beside the processor: a prompt takes $FIXED_SERVICE_MS milliseconds and nothing of
the processor, its mask is its box, its score the picture's mean, so that whoever asks knows the answer, and one of
another picture or prompt shows. With $AHEAD_S the clock of all programs is so many seconds ahead.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cutout_server.models.family import Family
from cutout_server.models.queries import Candidates, DecodeQuery, MaskQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.types import MaskPatch, RgbImage, Task


@dataclass(frozen=True)
class Mean:
    """A picture's size and mean; bytes as of a small model's embedding."""

    image_size: tuple[int, int]
    mean: float
    nbytes: int = 2**20


class Fixed:
    """Encodes in twice the service time, decodes in the service time, one after the other."""

    nbytes = 2**20

    def __init__(self, service_s: float) -> None:
        self._service_s = service_s

    def encode(self, images: Sequence[RgbImage]) -> list[Mean]:
        """One embedding each."""
        time.sleep(2 * self._service_s * len(images))
        return [Mean(image.shape[:2], float(image.mean())) for image in images]

    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """The box as a step function."""
        time.sleep(self._service_s * len(queries))
        return [self._box(query) for query in queries]

    def masks(self, queries: Sequence[MaskQuery]) -> list[MaskPatch]:
        """The logits are at full size already."""
        return [MaskPatch.of(query.logits > query.threshold) for query in queries]

    @staticmethod
    def _box(query: DecodeQuery) -> Candidates:
        box, inside = query.prompt.box, np.full(query.embedding.image_size, -1, np.float32)
        if box is not None:
            inside[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = 1
        return Candidates(inside[None], np.array([query.embedding.mean / 255], np.float32))


# Not in the many other programs of Python that Ray begins.
if any(word == "cutout_server" or word.endswith("default_worker.py") for word in sys.orig_argv):
    fixed = Fixed(float(os.environ["FIXED_SERVICE_MS"]) / 1000)
    FAMILIES["fixed"] = Family("fixed", frozenset({Task.SEGMENT}), load=lambda *_: fixed, needs_checkpoint=False)

_right, _ahead_s = time.time, float(os.environ.get("AHEAD_S", "0"))
if _ahead_s:
    time.time = lambda: _right() + _ahead_s
