"""How crops are varied: light, colour, blur, noise, JPEG, and shapes that nobody photographed."""

import cv2
import numpy as np
from numpy.random import Generator


def vary(rgb: np.ndarray, random: Generator) -> np.ndarray:
    """An (S, S, 3) uint8 crop as another camera would have seen it."""
    if random.random() < 0.8:
        rgb = _light(rgb, random)
    if random.random() < 0.5:
        rgb = _colour(rgb, random)
    if random.random() < 0.15:
        rgb = cv2.GaussianBlur(rgb, (0, 0), random.uniform(0.3, 1.5))
    if random.random() < 0.15:
        noise = random.standard_normal(rgb.shape, np.float32) * random.uniform(2, 14)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if random.random() < 0.15:
        quality = int(random.integers(20, 80))
        rgb = cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    return rgb


def _light(rgb: np.ndarray, random: Generator) -> np.ndarray:
    levels = np.arange(256, dtype=np.float32) / 255
    levels = levels ** np.exp(random.normal(0, 0.25))
    levels = (levels - 0.5) * np.exp(random.normal(0, 0.2)) + 0.5 + random.normal(0, 0.08)
    if random.random() < 0.03:
        levels = 1 - levels
    return cv2.LUT(rgb, np.clip(levels * 255, 0, 255).astype(np.uint8))


def _colour(rgb: np.ndarray, random: Generator) -> np.ndarray:
    """A mix of channels: white balance, saturation, grey."""
    grey = np.full((3, 3), 1 / 3)
    saturation = 0.0 if random.random() < 0.15 else random.uniform(0.4, 1.5)
    mix = saturation * np.eye(3) + (1 - saturation) * grey
    mix = np.diag(np.exp(random.normal(0, 0.1, 3))) @ mix
    if random.random() < 0.1:
        mix = mix[random.permutation(3)]
    return cv2.transform(rgb, mix.astype(np.float32))


def shape(size: int, random: Generator) -> np.ndarray:
    """(size, size) uint8 mask of a made-up object somewhere in the middle: an ellipse, a polygon, a blob."""
    mask = np.zeros((size, size), np.uint8)
    centre = size / 2 + random.uniform(-0.1, 0.1, 2) * size
    radii = size * random.uniform(0.12, 0.4) * np.exp(random.normal(0, 0.25, 2))
    turn = random.uniform(0, np.pi)
    kind = random.random()
    if kind < 0.3:
        angles, reach = np.linspace(0, 2 * np.pi, 48, endpoint=False), np.ones(48)
    elif kind < 0.5:  # A rectangle, upright most of the time.
        turn = turn if random.random() < 0.3 else 0.0
        angles = np.pi / 4 + np.arange(4) * np.pi / 2
        reach = np.full(4, 1.3)
    elif kind < 0.65:
        angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 9))))
        reach = random.uniform(0.6, 1.3, len(angles))
    else:
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = sum(
            random.normal(0, 0.35 / n) * np.cos(n * angles + random.uniform(0, 6.3))
            for n in range(1, int(random.integers(3, 8)))
        )
        reach = np.clip(1 + waves, 0.25, 1.8)
    across, down = radii[0] * reach * np.cos(angles), radii[1] * reach * np.sin(angles)
    x = centre[0] + across * np.cos(turn) - down * np.sin(turn)
    y = centre[1] + across * np.sin(turn) + down * np.cos(turn)
    cv2.fillPoly(mask, [np.round(np.stack([x, y], -1) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def paint(texture: np.ndarray, random: Generator) -> np.ndarray:
    """(S, S, 3) uint8: a texture as it is, or fainter, or a plain colour with a gradient."""
    strength = random.choice([0.0, 0.3, 1.0])
    colour = random.uniform(0, 255, 3) if random.random() < 0.5 else np.full(3, random.uniform(0, 255))
    size = len(texture)
    slope = np.linspace(-1, 1, size)[:, None] * random.normal(0, 20) + np.linspace(-1, 1, size) * random.normal(0, 20)
    plain = colour + slope[..., None]
    return np.clip(strength * texture + (1 - strength) * plain, 0, 255).astype(np.uint8)
