"""Tiles cover a picture; what seams cut is joined, and what several views show comes back once."""

from itertools import pairwise

import numpy as np
import pytest
from cutout_common.masks import rle_decode, rle_encode, rle_window
from cutout_server.imaging import masks
from cutout_server.imaging.tiles import JOINED, Part, Tile, distinct, joined, tiles, window
from cutout_server.types import Rle, Tiling

HEIGHT, WIDTH = 300, 400
WHOLE = Tile(0, 0, WIDTH, HEIGHT)
# Four tiles that share strips of 40 pixels, with a cross of them in the middle.
TILES = [Tile(0, 0, 220, 170), Tile(180, 0, 400, 170), Tile(0, 130, 220, 300), Tile(180, 130, 400, 300)]
VIEWS = [WHOLE, *TILES]


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def rle(mask: np.ndarray) -> Rle:
    return Rle(*mask.shape, rle_encode(mask))


def pixels(mask: Rle) -> np.ndarray:
    return rle_decode(mask.height, mask.width, mask.counts)


def seen(view: int, shape: np.ndarray, label: str = "disc", score: float = 0.5) -> Part:
    """What a view shows of a shape."""
    tile = VIEWS[view]
    visible = np.zeros_like(shape)
    visible[tile.top : tile.bottom, tile.left : tile.right] = tile.of(shape)
    mask = rle(visible)
    box = masks.tight_box(mask)
    assert box is not None
    return Part(view, mask, box, label, score, cut=tile.cuts(box, HEIGHT, WIDTH))


@pytest.mark.parametrize("seed", range(40))
def test_window_is_a_slice(seed: int) -> None:
    """A window of a mask is what slicing gives, and nothing beyond its edges; also when runs go over columns."""
    rng = np.random.default_rng(seed)
    height, width, rows, columns = rng.integers(1, 30, 4)
    left, top = rng.integers(-15, 30, 2)
    mask = rng.random((height, width)) < rng.choice([0.05, 0.5, 0.98])
    mask[:, rng.random(width) < 0.5] = True
    wide = np.zeros((height + 100, width + 100), np.bool_)
    wide[50 : 50 + height, 50 : 50 + width] = mask
    expected = wide[50 + top : 50 + top + rows, 50 + left : 50 + left + columns]
    counts = rle_window(height, width, rle_encode(mask), left, top, rows, columns)
    assert counts == rle_encode(expected)
    assert (rle_decode(rows, columns, counts) == expected).all()


@pytest.mark.parametrize(("height", "width"), [(300, 257), (1000, 3000), (256, 5000), (777, 513)])
@pytest.mark.parametrize("overlap", [0.05, 0.25, 0.5])
def test_tiles_cover_and_overlap(height: int, width: int, overlap: float) -> None:
    """Every pixel is in a tile of the asked size, and neighbours share what was asked at least."""
    found = tiles(height, width, Tiling(256, overlap))
    covered = np.zeros((height, width), np.bool_)
    for tile in found:
        assert tile.of(covered).shape == (min(256, height), min(256, width))
        tile.of(covered)[:] = True
    assert covered.all()
    for edges in ({(t.left, t.right) for t in found}, {(t.top, t.bottom) for t in found}):
        ordered = sorted(edges)
        for (_, end), (start, _) in pairwise(ordered):
            assert end - start >= 256 * overlap


def test_small_pictures_have_no_tiles() -> None:
    """A picture no larger than one tile is looked at once."""
    assert tiles(256, 200, Tiling(256)) == []
    assert len(tiles(257, 200, Tiling(256))) == 2


def test_a_seam_does_not_cut() -> None:
    """A disc over the corner of four tiles, which no tile shows whole, comes back whole; so does one over a side."""
    corner, side = disc(200, 150, 60), disc(200, 60, 35)
    parts = [seen(view, corner) for view in (1, 2, 3, 4)] + [seen(view, side, "ball") for view in (1, 2)]
    assert all(part.cut for part in parts)
    groups = joined(parts, VIEWS)
    assert sorted(map(sorted, groups)) == [[0, 1, 2, 3], [4, 5]]
    for group, whole in zip(sorted(groups, key=len), (side, corner), strict=True):
        assert (pixels(masks.union([parts[index].mask for index in group])) == whole).all()


def test_parts_of_different_things_stay_apart() -> None:
    """Parts are joined neither across labels nor where they disagree in the strip that their tiles share."""
    left, right = disc(185, 60, 25), disc(212, 60, 25)
    assert [len(group) for group in joined([seen(1, left, "a"), seen(2, left, "b")], VIEWS)] == [1, 1]
    assert [len(group) for group in joined([seen(1, left), seen(2, right)], VIEWS)] == [1, 1]
    assert [len(group) for group in joined([seen(1, left), seen(2, left)], VIEWS)] == [2]


def test_the_best_view_stays() -> None:
    """Of one object in several views: uncut in a tile, in the whole picture, joined, what a seam left: the first."""
    ball = disc(200, 60, 15)
    uncut = Part(1, rle(ball), masks.tight_box(rle(ball)), "disc", 0.3, cut=False)
    whole = seen(0, ball, score=0.9)
    over = Part(JOINED, uncut.mask, uncut.box, "disc", 0.8, cut=True)
    half = rle(ball & (np.arange(WIDTH) > 203))
    rest = Part(2, half, masks.tight_box(half), "disc", 0.99, cut=True)
    assert distinct([whole, uncut, over, rest]) == [1]
    assert distinct([over, rest, whole]) == [2]
    assert distinct([rest, over]) == [1]
    assert distinct([rest]) == [0]


def test_what_lies_inside_stays() -> None:
    """Something whole inside something larger is an object of its own, joined or not; views are not thinned out."""
    table, cup = seen(0, disc(200, 150, 140)), disc(260, 60, 15)
    joined_cup = Part(JOINED, rle(cup), masks.tight_box(rle(cup)), "disc", 0.2, cut=True)
    assert distinct([table, seen(2, cup), joined_cup]) == [0, 1]
    assert distinct([table, joined_cup]) == [0, 1]
    assert distinct([table, seen(0, disc(200, 150, 139))]) == [0, 1]
    assert distinct([]) == []


def test_window_of_a_large_picture_costs_runs() -> None:
    """A mask is put into a picture of 100 megapixels without its pixels ever being held."""
    placed = window(rle(disc(200, 150, 60)), -9000, -9500, 10_000, 10_000)
    assert masks.area(placed) == disc(200, 150, 60).sum()
    assert masks.tight_box(placed) == masks.tight_box(window(placed, 0, 0, 10_000, 10_000))
    assert (pixels(window(placed, 9000, 9500, HEIGHT, WIDTH)) == disc(200, 150, 60)).all()
