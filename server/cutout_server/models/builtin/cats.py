"""Cats' faces: sought quickly all over a picture, then looked at closely where one may be."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.boxes import Find, grouped
from cutout_server.models.builtin.cascades import Cascade, Cascades, Grey, merge
from cutout_server.types import Box

# Cats seldom hold their heads upright, and the cascades know faces within about ten degrees of it.
_TILTS = (0.0, -9.0, 9.0, -18.0, 18.0)  # Degrees at which one is sought,
_CLOSELY = (0.0, -5.0, 5.0, -10.0, 10.0)  # and about its own tilt at which one is looked at.
_SEEKER = (Cascade("frontalcatface_extended", 1, 1.0, 1.0),)
_JUDGES = (Cascade("frontalcatface_extended", 2, 2.0, 0.33), Cascade("frontalcatface", 2, 2.0, 0.33))
_WINDOW = 24  # Pixels; the cascades know nothing smaller.
_FACE = 48  # Side of a face that is looked at, in pixels.
_ROOM = 1.7  # Around it, in its own sides,
_LEAST, _MOST = 0.75, 1.35  # and how far its size may be from what it seemed.


@dataclass(frozen=True)
class _Spot:
    """Where a face may be: its middle and side in pixels, and its tilt in degrees."""

    x: float
    y: float
    side: float
    tilt: float

    @property
    def box(self) -> Box:
        half = self.side / 2
        return Box(self.x - half, self.y - half, self.x + half, self.y + half)


def cat_faces(cascades: Cascades, grey: Grey) -> list[Find]:
    """Faces of a seventh of a (h, w) uint8 picture's shorter side or more, the best first.

    The score grows with the number of tilts at which a face is seen, with and without equalised contrast.
    """
    height, width = grey.shape
    pad = max(height, width) // 5  # A face may be cut by the picture's edge.
    padded = np.asarray(cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE), np.uint8)
    seen = [
        (_Spot(x - pad, y - pad, side, 0.0).box.clipped(height, width), score)
        for spot in _joined(_seek(cascades, padded, max(_WINDOW, min(height, width) // 7)))
        for x, y, side, score in _judge(cascades, padded, spot)
    ]
    return merge([(box, score) for box, score in seen if box])


def _seek(cascades: Cascades, grey: Grey, smallest: int) -> Iterator[_Spot]:
    height, width = grey.shape
    for tilt in _TILTS:
        turn = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), tilt, 1.0), np.float64)
        turned = cv2.warpAffine(grey, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        for box, _ in cascades.find(np.asarray(turned, np.uint8), _SEEKER, smallest):
            yield _Spot(*_back(turn, box), box.x_max - box.x_min, tilt)


def _joined(spots: Iterator[_Spot]) -> list[_Spot]:
    """Spots that overlap are one, in their middle."""
    groups = grouped(spots, lambda spot: spot.box)
    return [_Spot(*np.mean([(each.x, each.y, each.side, each.tilt) for each in group], axis=0)) for group in groups]


def _judge(cascades: Cascades, grey: Grey, spot: _Spot) -> Iterator[tuple[float, float, float, float]]:
    """(x, y) of the middle, side and score of what is seen there, at a size that costs little."""
    scale = min(1.0, _FACE / spot.side)
    side = spot.side * scale
    out = round(_ROOM * side)
    for tilt in _CLOSELY:
        turn = np.asarray(cv2.getRotationMatrix2D((spot.x, spot.y), spot.tilt + tilt, scale), np.float64)
        turn[:, 2] += out / 2 - spot.x, out / 2 - spot.y
        turned = cv2.warpAffine(grey, turn, (out, out), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        part = np.asarray(turned, np.uint8)
        for seen in (part, np.asarray(cv2.equalizeHist(part), np.uint8)):
            smallest, largest = max(_WINDOW, int(_LEAST * side)), int(_MOST * side)
            for box, score in cascades.find(seen, _JUDGES, smallest, largest, step=1.05):
                yield *_back(turn, box), (box.x_max - box.x_min) / scale, score


def _back(turn: NDArray[np.float64], box: Box) -> tuple[float, float]:
    """The middle of a box, before the picture was turned."""
    x, y = cv2.invertAffineTransform(turn) @ ((box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2, 1.0)
    return float(x), float(y)
