"""A segmenter whose timing the tests control: it stands at the edge, in place of a neural network on a device."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from cutout_server.models.family import Family
from cutout_server.models.queries import Candidates, DecodeQuery, MaskQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.types import MaskPatch, RgbImage, Task
from waiting import PATIENCE_S


@dataclass(frozen=True)
class ProbeEmbedding:
    """Remembers the picture's size and its mean, so that a mixed-up embedding shows."""

    image_size: tuple[int, int]
    mean: float
    nbytes: int = 1000


@dataclass
class Probe:
    """Fills each prompt's box. Counts what it is asked; `gate` holds every pass back until it is set.

    A prompt whose box starts at x = 13 fails, alone or in company.
    """

    nbytes: int = 4096
    gate: threading.Event = field(default_factory=threading.Event)
    passes: list[tuple[str, int]] = field(default_factory=list)

    def _pass(self, operation: str, size: int) -> None:
        self.passes.append((operation, size))
        assert self.gate.wait(PATIENCE_S)

    def count(self, operation: str) -> int:
        """Questions that one operation answered."""
        return sum(size for name, size in self.passes if name == operation)

    def encode(self, images: Sequence[RgbImage]) -> list[ProbeEmbedding]:
        """One embedding each."""
        self._pass("encode", len(images))
        return [ProbeEmbedding(image.shape[:2], float(image.mean())) for image in images]

    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """The box as a step function; the score is the picture's mean / 255."""
        self._pass("decode", len(queries))
        answers = []
        for query in queries:
            box = query.prompt.box
            assert box is not None
            if box.x_min == 13:
                raise ValueError("thirteen")
            height, width = query.embedding.image_size
            inside = np.full((height, width), -1, np.float32)
            inside[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = 1
            answers.append(Candidates(inside[None], np.array([query.embedding.mean / 255], np.float32)))
        return answers

    def masks(self, queries: Sequence[MaskQuery]) -> list[MaskPatch]:
        """The logits are at full size already."""
        return [MaskPatch.of(query.logits > query.threshold) for query in queries]


@contextmanager
def probe_family(probe: Probe) -> Iterator[dict[str, object]]:
    """Registers the family `probe` for the time of a test; yields the settings of a model of it."""
    FAMILIES["probe"] = Family(
        name="probe",
        tasks=frozenset({Task.SEGMENT}),
        load=lambda *_: probe,
        needs_checkpoint=False,
    )
    try:
        yield {"name": "probe", "family": "probe"}
    finally:
        del FAMILIES["probe"]
