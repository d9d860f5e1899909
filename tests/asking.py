"""Words asked of detectors without a server."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cutout_server.models.protocols import Detector
from cutout_server.models.queries import Detection, DetectQuery


@dataclass(frozen=True)
class Ask:
    """What a `DetectQuery` asks, of a picture that nobody looked at yet: (H, W, 3) uint8 RGB."""

    pixels: np.ndarray = field(repr=False)
    phrases: tuple[str, ...]
    box_threshold: float
    text_threshold: float


def detect(detector: Detector, asks: Sequence[Ask]) -> Sequence[Sequence[Detection]]:
    """Looks at all pictures together, and then for all words together."""
    seen = detector.image_features([ask.pixels for ask in asks])
    return detector.detect(
        [
            DetectQuery(embedding, ask.phrases, ask.box_threshold, ask.text_threshold)
            for embedding, ask in zip(seen, asks, strict=True)
        ]
    )
