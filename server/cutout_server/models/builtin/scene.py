"""A window of a picture with one object in it, and the cues that tell the object from the rest."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.cut import Edges
from cutout_server.models.builtin.palette import Palette
from cutout_server.models.builtin.superpixels import Superpixels, superpixels, to_lab
from cutout_server.models.builtin.window import Window
from cutout_server.types import Box, RgbImage

Field = NDArray[np.float32]
Term = Field  # Either (h, w), for pixels, or (count,), for superpixels.

_CELL = 9  # Superpixels' side, in window pixels.
_BLUR = 0.7  # In window pixels; takes off noise and JPEG's ringing.
# Reach of each affinity in colour (L*a*b*, with L* at 0.6) and in space (half sides of the box; None is everywhere).
_REACHES: tuple[tuple[float, float | None], ...] = ((3, None), (12, None), (6, 0.5), (4, 0.2), (10, 0.2))
_SEED_REACH = (8.0, 0.5)
_GEODESIC_UNIT = 20.0


@dataclass(frozen=True)
class Scene:
    """What is known of a window before anything is decided.

    Attributes:
        window: Where it is.
        superpixels: Its partition.
        palette: Its colours.
        edges: What boundaries cost.
        box: (4,) float32, where the object is thought to be, in window pixels.
        radial: (h, w) float32, elliptic distance from the box's centre; 1 on the ellipse within the box.
        reach: (h, w) float32, the same for the box itself; 1 on its sides.
        contrast: (h, w) float32, log ratio of colours inside and outside of the box.
        from_outside: (count,) float32 in [0, 1), how hard it is to come here from outside the box.
        affinities: Matrices (count, count) whose rows sum to 1 or less, by which superpixels vote for each other.
        seeds: (h, w) int8, 1 at clicks inside, -1 at clicks outside, else 0.
        seed_terms: (count,) float32 each: likeness to and nearness of the clicks inside and outside.
    """

    window: Window
    superpixels: Superpixels = field(repr=False)
    palette: Palette = field(repr=False)
    edges: Edges = field(repr=False)
    box: Field
    radial: Field = field(repr=False)
    reach: Field = field(repr=False)
    contrast: Field = field(repr=False)
    from_outside: Field = field(repr=False)
    affinities: tuple[Field, ...] = field(repr=False)
    seeds: NDArray[np.int8] = field(repr=False)
    seed_terms: tuple[Term, ...] = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the window."""
        return self.window.height, self.window.width

    def spread(self, values: Term) -> Field:
        """(count,) values of the superpixels to their (h, w) pixels."""
        return np.asarray(values[self.superpixels.labels], np.float32)

    @classmethod
    def of(
        cls, pixels: RgbImage, window: Window, box: Box, points: NDArray[np.float32], labels: NDArray[np.int32]
    ) -> "Scene":
        """Looks at a window.

        Args:
            pixels: (H, W, 3) uint8 RGB, the whole picture.
            window: Where to look.
            box: Where the object is thought to be, in pixels of the picture.
            points: (N, 2) float32 clicks, in pixels of the picture.
            labels: (N,) int32; 1 inside, 0 outside.
        """
        seen = np.asarray(cv2.GaussianBlur(window.crop(pixels), (0, 0), _BLUR), np.uint8)
        lab = to_lab(seen)
        regions = superpixels(seen, lab, _CELL)
        corners = window.to_window(np.array([[box.x_min, box.y_min], [box.x_max, box.y_max]])).ravel()
        across, down = _normalised(corners, window)
        radial = np.sqrt(across**2 + down**2)
        reach = np.maximum(abs(across), abs(down))
        palette = Palette(lab)
        outside = (reach > 1).astype(np.float32)
        contrast = palette.log_ratio((radial < 0.8).astype(np.float32), outside)
        affinities, place = _affinities(regions, across, down)
        seeds = _draw(window, points, labels)
        return cls(
            window=window,
            superpixels=regions,
            palette=palette,
            edges=Edges.of(lab),
            box=corners,
            radial=radial,
            reach=reach,
            contrast=contrast,
            from_outside=_from_outside(regions, outside),
            affinities=affinities,
            seeds=seeds,
            seed_terms=_seed_terms(regions, place, seeds),
        )


def _normalised(corners: Field, window: Window) -> tuple[Field, Field]:
    left, top, right, bottom = corners
    rows, columns = np.arange(window.height) + 0.5, np.arange(window.width) + 0.5
    across = (2 * columns - left - right) / max(right - left, 1.0)
    down = (2 * rows - top - bottom) / max(bottom - top, 1.0)
    full = np.zeros((window.height, window.width), np.float32)
    return full + across[None].astype(np.float32), full + down[:, None].astype(np.float32)


def _from_outside(regions: Superpixels, outside: Field) -> Term:
    sources = np.flatnonzero(regions.mean(outside) > 0.5)
    if not len(sources):  # The box is the window: what lies along its frame is the best guess.
        frame = regions.labels[[0, -1]].ravel(), regions.labels[:, [0, -1]].ravel()
        sources = np.unique(np.concatenate(frame))
    return np.asarray(np.tanh(regions.distances(sources) / _GEODESIC_UNIT), np.float32)


def _affinities(regions: Superpixels, across: Field, down: Field) -> tuple[tuple[Field, ...], Field]:
    colour = regions.colour * np.array([0.6, 1, 1], np.float32)
    place = np.stack([regions.mean(across), regions.mean(down)], -1)
    apart, away = _squared(colour, colour), _squared(place, place)
    found = []
    for colours, space in _REACHES:
        exponent = apart / (2 * colours**2)
        matrix = np.exp(-exponent if space is None else -exponent - away / (2 * space**2))
        np.fill_diagonal(matrix, 0)  # Nobody votes for itself.
        matrix *= regions.area
        found.append(matrix / (matrix.sum(1, keepdims=True) + 1e-3 * regions.area.mean()))
    return tuple(found), np.concatenate([colour / _SEED_REACH[0], place / _SEED_REACH[1]], -1)


def _squared(first: Field, second: Field) -> Field:
    cross = first @ second.T
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * cross
    return np.asarray(np.maximum(squares, 0), np.float32)


def _draw(window: Window, points: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.int8]:
    seeds = np.zeros((window.height, window.width), np.int8)
    limit = np.array([window.width - 1, window.height - 1])
    places = np.clip(np.floor(window.to_window(points)), 0, limit).astype(int)
    within = np.all((points >= (window.left, window.top)) & (points <= (window.right, window.bottom)), axis=-1)
    for radius in (2, 0):  # The clicked pixels themselves come last: no neighbour's disc may cover them.
        for (x, y), label, seen in zip(places, labels, np.atleast_1d(within), strict=True):
            if seen:
                cv2.circle(seeds.view(np.uint8), (int(x), int(y)), radius, 1 if label else 255, -1)
    return seeds


def _seed_terms(regions: Superpixels, place: Field, seeds: NDArray[np.int8]) -> tuple[Term, ...]:
    terms = []
    for sign in (1, -1):
        clicked = np.unique(regions.labels[seeds == sign])
        if len(clicked):
            likeness = np.exp(-_squared(place, place[clicked]).min(1) / 2)
            nearness = np.exp(-regions.distances(clicked) / _GEODESIC_UNIT)
        else:
            likeness = nearness = np.zeros(regions.count, np.float32)
        terms += [likeness, nearness]
    return tuple(terms)
