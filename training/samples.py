"""Batches of prompted crops. One is a function of the seed and its number alone, so that training can resume."""

from dataclasses import dataclass

import cv2
import numpy as np
from cutout_server.models.builtin.crops import MARGIN, Window, box_map, crop, spot
from cutout_server.models.builtin.decode import SCALES
from looks import paint, shape, vary
from numpy.random import Generator
from pictures import Object, Pictures, mask_of
from prompts import inside, jittered, spoiled

WEIGHTS = {  # How often a set is drawn from: by its variety, not by its size.
    "coco": 30, "animals": 22, "cocoperson": 16, "pets": 14, "electronics": 6, "strawberry": 4, "mushrooms": 4,
    "pines": 2, "pothole": 2.5, "cardamage": 2.5, "screws": 1.5, "desk5": 1,
}  # fmt: skip
OTHER_SETS = 5.0
COMPOSITES, SHAPES = 0.28, 0.08
BOXES, CLICKS = 0.43, 0.4  # Of the prompts; the rest have a mask from before.
SMALLEST_SHARE, LARGEST_SHARE = 0.5, 9.0  # Sides of the crop around a click, in longer sides of the object.
SEARCHED = 0.5  # Of the crops around clicks: as large as those in which the server searches, whatever the object.
LEAST, LEAST_SEARCHED = 30, 3  # Pixels of an object that a crop must show.
GRAIN = 48  # Cells of an object's box, each way, among which a click's place is drawn.


@dataclass(frozen=True)
class Batch:
    """Prompted crops.

    Attributes:
        crops: (N, 7, S, S) float32, see network.py.
        targets: (N, S/2, S/2) float32 in [0, 1].
        known: (N, S/2, S/2) float32; 0 where nobody outlined anything.
        beyond: (N,) float32: area of the object outside of the crop, in cells of the target.
        clear: (N,) bool; the prompt says which of several objects is meant.
    """

    crops: np.ndarray
    targets: np.ndarray
    known: np.ndarray
    beyond: np.ndarray
    clear: np.ndarray


class Samples:
    """Draws batches from the objects of a split."""

    def __init__(self, pictures: Pictures, split: str, seed: int) -> None:
        self._pictures, self._seed = pictures, seed
        self._by_set: dict[str, list[Object]] = {}
        for one in pictures.of(split):
            self._by_set.setdefault(pictures.pictures[one.picture]["set"], []).append(one)
        self._sets = sorted(self._by_set)
        chances = np.array([WEIGHTS.get(name, OTHER_SETS) for name in self._sets])
        self._chances = chances / chances.sum()

    def batch(self, number: int, count: int, size: int) -> Batch:
        """The `number`th batch of `count` crops, `size` pixels wide."""
        random = np.random.default_rng([self._seed, number])
        made = [self._sample(random, size) for _ in range(count)]
        crops, targets, known, beyond, clear = zip(*made, strict=True)
        return Batch(np.stack(crops), np.stack(targets), np.stack(known), np.array(beyond, np.float32), np.array(clear))

    def _draw(self, random: Generator) -> Object:
        found = self._by_set[self._sets[random.choice(len(self._sets), p=self._chances)]]
        return found[int(random.integers(len(found)))]

    def _sample(self, random: Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, bool]:
        while True:
            kind = random.random()
            prompt = "box" if kind < BOXES else "click" if kind < BOXES + CLICKS else "mask"
            searched = prompt == "click" and random.random() < SEARCHED
            rgb, mask, known, beyond = self._scene(random, size, prompt, searched=searched)
            if (mask > 127).sum() > (LEAST_SEARCHED if searched else LEAST):
                break
        if random.random() < 0.5:
            rgb, mask, known = rgb[:, ::-1], mask[:, ::-1], known[:, ::-1]
        if random.random() < 0.1:
            rgb, mask, known = rgb.transpose(1, 0, 2), mask.T, known.T
        if random.random() < 0.05:
            rgb, mask, known = rgb[::-1], mask[::-1], known[::-1]
        rgb, mask, known = (np.ascontiguousarray(one) for one in (rgb, mask, known))
        maps, clear = _prompt(mask, prompt, random)
        seen = vary(rgb, random).astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
        half = (size // 2, size // 2)
        target = cv2.resize(mask, half, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        sure = cv2.resize(known, half, interpolation=cv2.INTER_NEAREST).astype(np.float32) / 255
        return np.concatenate([seen, maps]), target, sure, beyond, clear

    def _scene(
        self, random: Generator, size: int, prompt: str, *, searched: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """RGB, mask and what is known, (size, size) uint8 each, and the object's area beyond in the target's cells."""
        kind = random.random()
        if kind < SHAPES:
            return self._shapes(random, size)
        one = self._draw(random)
        window = self._window(one, random, prompt, searched=searched)
        rgb, seen, known = self._pictures.crop(one, window, size)
        beyond = max(one.area * (size / 2) ** 2 / (window.width * window.height) - _area(seen), 0.0)
        if kind > SHAPES + COMPOSITES:
            return rgb, seen, known, beyond
        rgb, seen = self._composite(rgb, seen, random, size)
        return rgb, seen, np.full_like(seen, 255), beyond

    def _window(self, one: Object, random: Generator, prompt: str, *, searched: bool) -> Window:
        x_min, y_min, x_max, y_max = one.box
        longer = max(x_max - x_min, y_max - y_min)
        if (
            prompt == "click"
        ):  # Callers' clicks say nothing of the size: any share of the crop, and more than all of it.
            side = longer * np.exp(random.uniform(np.log(SMALLEST_SHARE), np.log(LARGEST_SHARE)))
            if searched:
                side = max(self._pictures.size(one.picture)) * random.choice(SCALES) * np.exp(random.normal(0, 0.1))
            # Found on a small mask, which is fast.
            box = Window(x_min, y_min, x_max - x_min, y_max - y_min)
            mask = crop(self._pictures.read(one.picture)[1], box, GRAIN, nearest=True)
            x, y = inside(mask_of(mask, one.ids) > 0, random)
            middle = (
                np.array([x_min + x * box.width / GRAIN, y_min + y * box.height / GRAIN])
                + random.normal(0, 0.04, 2) * side
            )
        else:
            side = longer * (MARGIN if random.random() < 0.5 else random.uniform(1.05, 2.4))
            middle = np.array([x_min + x_max, y_min + y_max]) / 2 + random.normal(0, 0.05, 2) * longer
        side = max(side, 16.0)
        stretch = np.exp(random.normal(0, 0.1))
        width, height = side * stretch, side / stretch
        return Window(middle[0] - width / 2, middle[1] - height / 2, width, height)

    def _background(self, random: Generator, size: int) -> np.ndarray:
        one = self._draw(random)
        picture, _ = self._pictures.read(one.picture, level=1)
        height, width = picture.shape[:2]
        side = min(height, width) * random.uniform(0.4, 1)
        window = Window(random.uniform(0, width - side), random.uniform(0, height - side), side, side)
        return crop(picture, window, size)

    def _composite(
        self, rgb: np.ndarray, mask: np.ndarray, random: Generator, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The object before another photograph, lit differently, sometimes with a third one behind or before it."""
        scene = self._background(random, size).astype(np.float32)
        if random.random() < 0.4:
            scene = self._pasted(scene, random, size)[0]
        alpha = mask.astype(np.float32) / 255
        if random.random() < 0.5:
            alpha = cv2.GaussianBlur(alpha, (0, 0), random.uniform(0.3, 1.0))
        if random.random() < 0.3:  # A shadow.
            x, y = random.normal(0, 0.08 * size, 2)
            fallen = cv2.warpAffine(alpha, np.array([[1, 0, x], [0, 1, y]], np.float32), (size, size))
            fallen = cv2.GaussianBlur(fallen, (0, 0), random.uniform(1, 6))
            scene = scene * (1 - random.uniform(0.2, 0.6) * fallen[..., None])
        lit = rgb * np.exp(random.normal(0, 0.15)) * np.exp(random.normal(0, 0.06, 3))
        scene = scene + alpha[..., None] * (lit - scene)
        if random.random() < 0.25:
            covered, cover = self._pasted(scene, random, size)
            left = (mask * (1 - cover)).astype(np.uint8)
            if left.sum() > 0.5 * mask.sum():
                scene, mask = covered, left
        return np.clip(scene, 0, 255).astype(np.uint8), mask

    def _pasted(self, scene: np.ndarray, random: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A scene with some other object in it, and (size, size) float32 of what that covers."""
        one = self._draw(random)
        side = max(one.box[2] - one.box[0], one.box[3] - one.box[1]) * random.uniform(1, 3)
        left, top = one.box[0] - random.uniform(0, 0.8) * side, one.box[1] - random.uniform(0, 0.8) * side
        window = Window(left, top, side, side)
        rgb, mask, _ = self._pictures.crop(one, window, size)
        alpha = mask.astype(np.float32) / 255
        return scene + alpha[..., None] * (rgb - scene), alpha

    def _shapes(self, random: Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """A made-up object, often one of several that look alike."""
        mask = shape(size, random)
        scene = paint(self._background(random, size), random).astype(np.float32)
        skin = paint(self._background(random, size), random).astype(np.float32)
        alpha = mask.astype(np.float32) / 255
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) and random.random() < 0.6:
            width, height = np.array([len(columns), len(rows)]) * random.uniform(1.08, 1.6, 2)
            for across in (-1, 0, 1):
                for down in (-1, 0, 1):
                    if (across or down) and random.random() < 0.7:
                        move = np.array([[1, 0, across * width], [0, 1, down * height]], np.float32)
                        near = cv2.warpAffine(alpha, move, (size, size))[..., None]
                        scene = scene + near * (cv2.warpAffine(skin, move, (size, size)) - scene)
        scene = scene + alpha[..., None] * (skin - scene)
        scene = cv2.GaussianBlur(scene, (0, 0), random.uniform(0.3, 1.5))
        return np.clip(scene, 0, 255).astype(np.uint8), mask, np.full_like(mask, 255), 0.0


def _area(mask: np.ndarray) -> float:
    """Of a (size, size) uint8 mask, in cells of the target, which are two pixels wide."""
    return float(mask.sum(dtype=np.int64)) / 255 / 4


def _prompt(mask: np.ndarray, prompt: str, random: Generator) -> tuple[np.ndarray, bool]:
    """(4, S, S) float32 maps: box, clicks inside, clicks outside, mask before; and whether they are clear."""
    size = len(mask)
    maps = np.zeros((4, size, size), np.float32)
    is_inside = mask > 127
    boxed = prompt == "box" or (prompt == "mask" and random.random() < 0.3)
    if boxed:
        rows, columns = np.flatnonzero(is_inside.any(1)), np.flatnonzero(is_inside.any(0))
        tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        maps[0] = box_map(size, jittered(tight, random))
    if prompt == "mask":
        maps[3] = spoiled(mask, random)
    clicks = 1 if prompt == "click" else int(random.random() < (0.2 if prompt == "box" else 0.6))
    if prompt == "click" and random.random() < 0.45:
        clicks = int(random.integers(2, 4))
    for _ in range(clicks):
        spot(maps[1], *inside(is_inside, random))
    outside = random.random() < (0.35 if prompt == "click" else 0.1)
    if outside:
        reach = np.ones((size // 4 + 1, size // 4 + 1), np.uint8)
        near = cv2.dilate(is_inside.view(np.uint8), reach).view(bool) & ~is_inside
        for _ in range(int(random.integers(1, 3)) if near.any() else 0):
            spot(maps[2], *inside(near, random))
    return maps, prompt != "click" or clicks + outside > 1
