"""Colour words: which pixels they name, and where these form regions."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.boxes import Find, mapped
from cutout_server.models.builtin.crops import shrunk
from cutout_server.types import Box, RgbImage

Lab = NDArray[np.float32]  # (h, w, 3) CIE L*a*b* with its natural ranges

_SIDE = 320
_SMALLEST = 0.003  # Share of the picture below which a region is a speck.
_MOST = 12
_GREY_CHROMA = 12.0
# Hue angles of CIE L*a*b* in degrees, [from, to).
_HUES = {
    "red": (345, 50),
    "orange": (50, 80),
    "yellow": (80, 112),
    "green": (112, 200),
    "blue": (200, 312),
    "purple": (312, 345),
}


def regions(pixels: RgbImage, colour: str) -> list[Find]:
    """Where a colour is.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        colour: One of `words.COLOURS`.

    Returns:
        Boxes in pixels of the picture with scores in [0, 1], the largest first. The score grows with the region's size
        and with how much of its box it fills.
    """
    small = shrunk(pixels, _SIDE)
    smooth = np.asarray(cv2.GaussianBlur(small, (0, 0), 1.0), np.uint8)
    lab = np.asarray(cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
    named = name(lab, colour).astype(np.uint8)
    named = np.asarray(cv2.morphologyEx(named, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)), np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(named, connectivity=8)
    y, x = pixels.shape[0] / small.shape[0], pixels.shape[1] / small.shape[1]
    found = []
    for index in sorted(range(1, count), key=lambda i: -int(stats[i, cv2.CC_STAT_AREA]))[:_MOST]:
        left, top, across, down, area = (int(value) for value in stats[index])
        share = area / named.size
        if share >= _SMALLEST:
            score = 0.4 + 0.6 * (area / (across * down)) * share / (share + 0.01)
            found.append((mapped(Box(left, top, left + across, top + down), x, y), min(score, 1.0)))
    return found


def name(lab: Lab, colour: str) -> NDArray[np.bool_]:
    """(h, w, 3) L*a*b* to the (h, w) pixels that people would call by a colour's name."""
    light, chroma = lab[..., 0], np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    black = (light < 22) & (chroma < 20) | (light < 10)
    white = (light > 82) & (chroma < _GREY_CHROMA)
    plain = chroma < _GREY_CHROMA
    rosy = (hue >= 312) | (hue < 35)
    pink = rosy & (light >= 60) & (chroma < 75) & ~plain & ~black
    warm = (hue >= 30) & (hue < 90)
    brown = warm & (light < 56) & (chroma < 56) & ~plain & ~black & ~((hue < 45) & (chroma > 44))
    special = {"black": black, "white": white, "grey": plain & ~black & ~white, "pink": pink, "brown": brown}
    if colour in special:
        return np.asarray(special[colour])
    start, end = _HUES[colour]
    within = (hue >= start) & (hue < end) if start < end else (hue >= start) | (hue < end)
    return np.asarray(within & ~plain & ~black & ~pink & ~brown)
