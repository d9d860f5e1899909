"""OpenCV's bundled cascades and people detector, with scores that can be compared."""

import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.boxes import Find, grouped, suppress
from cutout_server.types import Box

Grey = NDArray[np.uint8]  # (h, w)

_FOLDER = Path(cv2.__file__).parent / "data"
_PEOPLE_BIAS, _PEOPLE_SLOPE = 1.35, 2.5  # Margin of the people detector at which it is right half of the time.


@dataclass(frozen=True)
class Cascade:
    """One cascade and what its margin is worth.

    Attributes:
        file: Name without beginning and end.
        least: Neighbouring windows that must agree.
        scale: Score is 1 - exp(-margin / scale).
        most: The score's limit: how far the cascade is to be trusted alone.
    """

    file: str
    least: int
    scale: float
    most: float


FACES = (Cascade("frontalface_default", 3, 6.0, 0.7), Cascade("frontalface_alt2", 3, 100.0, 0.33))
PROFILES = (Cascade("profileface", 5, 6.0, 0.5),)
EYES = (Cascade("eye_tree_eyeglasses", 4, 4.0, 0.6), Cascade("eye", 4, 4.0, 0.5))
SMILES = (Cascade("smile", 15, 4.0, 0.8),)
BODIES = (Cascade("upperbody", 4, 3.0, 0.6),)
PLATES = (Cascade("russian_plate_number", 4, 3.0, 0.7), Cascade("license_plate_rus_16stages", 4, 3.0, 0.6))


class Cascades:
    """Classifiers, one of each kind for each thread, since they may not be shared."""

    def __init__(self) -> None:
        self._own = threading.local()

    def find(
        self, grey: Grey, cascades: tuple[Cascade, ...], smallest: int, largest: int = 0, step: float = 1.1
    ) -> list[Find]:
        """What any of the cascades sees; where several see the same, their scores add up.

        Args:
            grey: (h, w) uint8.
            cascades: All for one thing.
            smallest: Least side of a find, in pixels.
            largest: Greatest side of one; 0 for the picture's own.
            step: Factor from one window size to the next.
        """
        found: list[Find] = []
        for cascade in cascades:
            boxes, _, margins = self._classifier(cascade.file).detectMultiScale3(
                grey,
                step,
                cascade.least,
                minSize=(smallest, smallest),
                maxSize=(largest, largest),
                outputRejectLevels=True,
            )
            for (x, y, width, height), margin in zip(boxes, margins, strict=True):
                score = cascade.most * (1 - np.exp(-max(float(margin), 0) / cascade.scale))
                found.append((Box(float(x), float(y), float(x + width), float(y + height)), float(score)))
        return merge(found)

    def people(self, grey: Grey) -> list[Find]:
        """Standing people, by histograms of oriented gradients (Dalal and Triggs 2005)."""
        if grey.shape[0] < 128 or grey.shape[1] < 64:
            return []
        detector = cv2.HOGDescriptor()
        detector.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))
        boxes, margins = detector.detectMultiScale(grey, winStride=(8, 8), scale=1.05)
        found = []
        for (x, y, width, height), margin in zip(boxes, np.ravel(margins), strict=True):
            score = 1 / (1 + np.exp(-_PEOPLE_SLOPE * (float(margin) - _PEOPLE_BIAS)))
            # The window that it was trained on is wider and higher than the person by about a tenth on each side.
            across, down = 0.12 * width, 0.06 * height
            found.append(
                (
                    Box(float(x + across), float(y + down), float(x + width - across), float(y + height - down)),
                    float(score),
                )
            )
        return suppress(found)

    def _classifier(self, file: str) -> cv2.CascadeClassifier:
        mine: dict[str, cv2.CascadeClassifier] = self._own.__dict__
        if file not in mine:
            mine[file] = cv2.CascadeClassifier(str(_FOLDER / f"haarcascade_{file}.xml"))
        return mine[file]


def merge(found: list[Find]) -> list[Find]:
    """Finds of one thing become one, whose score is 1 less the chance that all of them are wrong."""
    groups = grouped(sorted(found, key=lambda find: -find[1]), lambda find: find[0])
    return suppress([(_mean_box(group), 1 - float(np.prod([1 - score for _, score in group]))) for group in groups])


def _mean_box(group: list[Find]) -> Box:
    sides = np.array([[box.x_min, box.y_min, box.x_max, box.y_max] for box, _ in group])
    weights = np.array([score + 1e-3 for _, score in group])
    return Box(*(sides * weights[:, None] / weights.sum()).sum(0).tolist())
