"""PNG, packed bits and polygons give every mask back; polygons are held against other rasterisers."""

import io
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
import shapely
from cutout_common.masks import (
    bits_decode,
    bits_encode,
    bits_encode_part,
    png_decode,
    png_encode,
    png_encode_part,
    polygons_decode,
    rle_decode_part,
    rle_encode,
    rle_encode_part,
)
from cutout_server.imaging.masks import polygons
from cutout_server.types import MaskPatch
from hypothesis import given, settings
from hypothesis import strategies as st
from masks_fixtures import MASKS, SHAPES
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely import MultiPolygon
from skimage.draw import polygon2mask


def fill(outlines):
    rings = [[polygon.exterior, *polygon.holes] for polygon in outlines.polygons]
    return polygons_decode(outlines.height, outlines.width, rings)


def fill_with_skimage(outlines):
    """Even-odd by skimage, asked at pixel centres: no outline of ours runs through one."""
    mask = np.zeros((outlines.height, outlines.width), np.bool_)
    for polygon in outlines.polygons:
        for ring in (polygon.exterior, *polygon.holes):
            mask ^= polygon2mask(mask.shape, ring[:, ::-1] - 0.5)
    return mask


def assert_round_trips(mask):
    assert np.array_equal(png_decode(png_encode(mask)), mask)
    assert np.array_equal(bits_decode(*mask.shape, bits_encode(mask)), mask)
    outlines = polygons(MaskPatch.of(mask))
    assert np.array_equal(fill(outlines), mask)
    _, count = ndimage.label(mask)
    assert len(outlines.polygons) == count
    shape = MultiPolygon([(polygon.exterior, polygon.holes) for polygon in outlines.polygons])
    assert shape.is_valid, shapely.is_valid_reason(shape)
    assert shape.area == mask.sum()
    for polygon in outlines.polygons:
        for ring in (polygon.exterior, *polygon.holes):
            edges = np.roll(ring, -1, axis=0) - ring
            assert ring.dtype == np.float32
            assert ((edges != 0).sum(axis=1) == 1).all(), "every edge runs along an axis"
            assert (edges.astype(bool) != np.roll(edges, -1, axis=0).astype(bool)).all(), "every vertex is a turn"


@pytest.mark.parametrize("name", SHAPES)
def test_awkward_shapes_round_trip_exactly(name):
    """All three encodings give the mask back; polygons have one exterior a part, and are valid by shapely."""
    assert_round_trips(SHAPES[name])


@settings(max_examples=200, deadline=None)
@given(MASKS, *[st.integers(0, 40)] * 4)
def test_a_part_of_a_mask_is_written_as_the_whole(part, top, left, below, behind):
    """RLE and bits byte for byte; the PNG file is another one, sound to its last checksum, of the same picture."""
    mask = np.pad(part, ((top, below), (left, behind)))
    place = (*mask.shape, top, left)
    assert rle_encode_part(*place, part) == rle_encode(mask)
    assert bits_encode_part(*place, part) == bits_encode(mask)
    file = png_encode_part(*place, part)
    assert np.array_equal(png_decode(file), mask)
    assert np.array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE) > 0, mask)
    (length,) = struct.unpack(">I", file[33:37])
    rows = np.frombuffer(zlib.decompress(file[41 : 41 + length]), np.uint8).reshape(len(mask), -1)
    assert not rows[:, 0].any()
    assert rows[:, 1:].tobytes() == bits_encode(mask)
    row, column, tight = rle_decode_part(*mask.shape, rle_encode(mask))
    assert np.array_equal(MaskPatch(*mask.shape, row, column, tight).whole(), mask)
    patch = MaskPatch.of(mask)
    assert tight.size == patch.inside.size
    crossed = pickle.loads(pickle.dumps(patch))  # noqa: S301 - our own
    assert crossed.place == patch.place
    assert crossed.inside.dtype == np.bool_
    assert np.array_equal(crossed.inside, patch.inside)


def test_checksums_of_large_empty_files():
    """Zeros by the million, before and behind."""
    for top in (0, 1, 4000, 70_000):
        file = png_encode_part(70_001, 900, top, 300, np.ones((1, 77), np.bool_))
        assert len(zlib.decompress(file[41:-16])) == 70_001 * 114
        assert len(file) < 70_001 * 114 / 200


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_any_mask_round_trips_exactly(mask):
    """Likewise for whatever can be thought of."""
    assert_round_trips(mask)


@pytest.mark.parametrize("name", SHAPES)
def test_outlines_are_filled_alike_by_skimage(name):
    """Another rasteriser makes the same mask of our outlines."""
    assert np.array_equal(fill_with_skimage(polygons(MaskPatch.of(SHAPES[name]))), SHAPES[name])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-30, 130), st.integers(-30, 130)), min_size=3, max_size=12),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_polygon_is_filled_as_skimage_fills_it(thirds, height, width):
    """Slanted, self-crossing and overhanging polygons agree wherever no centre lies on an edge."""
    # Thirds never meet the centres at halves with integer slopes often; those that do are left out below.
    ring = np.array(thirds) / 3 + 0.01
    ours = polygons_decode(height, width, [[ring]])
    theirs = polygon2mask((height, width), ring[:, ::-1] - 0.5)
    y, x = np.mgrid[:height, :width] + 0.5
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    along, across = np.stack([x1 - x0, y1 - y0]), np.stack([x[..., None] - x0, y[..., None] - y0])
    on_edge = (np.abs(along[0] * across[1] - along[1] * across[0]) < 1e-6).any(axis=-1)
    assert np.array_equal(ours[~on_edge], theirs[~on_edge])


def test_polygons_unite_and_rings_alternate():
    """Two polygons that overlap stay filled; two rings of one polygon leave a hole."""
    square = np.array([[1, 1], [5, 1], [5, 5], [1, 5]], np.float32)
    assert polygons_decode(8, 8, [[square], [square + 2]]).sum() == 16 + 16 - 4
    assert polygons_decode(8, 8, [[square, square + 2]]).sum() == 16 + 16 - 2 * 4


def test_centres_on_edges_belong_to_one_side():
    """Squares that share an edge through centres share no pixel and leave none out."""
    left = np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 4.5], [0.5, 4.5]])
    right = left + np.array([2, 0])
    a, b = (polygons_decode(6, 6, [[ring]]) for ring in (left, right))
    assert not (a & b).any()
    assert np.array_equal(a | b, polygons_decode(6, 6, [[np.array([[0.5, 0.5], [4.5, 0.5], [4.5, 4.5], [0.5, 4.5]])]]))


@pytest.mark.parametrize("polygon", [[], [[]], [[np.zeros((0, 2))]], [[np.array([[1, 1], [3, 3]])]]])
def test_polygons_without_area_are_empty(polygon):
    """Nothing, no ring, no vertex, no area: no pixel."""
    assert not polygons_decode(4, 5, polygon).any()


@pytest.mark.parametrize(
    "ring", [np.array([[0, 0], [np.nan, 1], [1, 1]]), np.array([[0, 0], [np.inf, 1], [1, 1]]), np.ones(5)]
)
def test_broken_rings_are_refused(ring):
    """Coordinates come in finite pairs."""
    with pytest.raises(ValueError):  # noqa: PT011 - numpy's own words for the odd one
        polygons_decode(4, 4, [[np.array(ring)]])


def test_far_vertices_cost_nothing():
    """A polygon much larger than the mask is clipped to it."""
    assert polygons_decode(5, 7, [[np.array([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]])]]).all()


def test_png_is_what_other_readers_read():
    """Pillow and OpenCV see a 1-bit greyscale file with the mask in white."""
    mask = SHAPES["rings"]
    with Image.open(io.BytesIO(png_encode(mask))) as image:
        assert image.mode == "1"
        assert np.array_equal(np.asarray(image), mask)
    read = cv2.imdecode(np.frombuffer(png_encode(mask), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(read, np.where(mask, 255, 0))


def test_png_masks_of_other_makers_are_read():
    """8-bit grey and RGB masks are split at the middle."""
    mask = SHAPES["rings"]
    for mode in ("L", "RGB", "P", "1"):
        file = io.BytesIO()
        Image.fromarray(mask).convert(mode).save(file, "PNG")
        assert np.array_equal(png_decode(file.getvalue()), mask)


@pytest.mark.parametrize("data", [b"", b"GIF89a", png_encode(SHAPES["rings"])[:60], png_encode(SHAPES["rings"])[:99]])
def test_broken_png_is_refused(data):
    """No file, another format, or a part of one."""
    with pytest.raises(ValueError, match="expected a PNG file"):
        png_decode(data)


@pytest.mark.parametrize("data", [b"", bytes(3), bytes(5)])
def test_bits_of_another_size_are_refused(data):
    """The number of bytes follows from the size."""
    with pytest.raises(ValueError, match="expected 2 rows of 2 bytes"):
        bits_decode(2, 9, data)


@pytest.mark.parametrize("name", ["spiral", "rings"])
def test_outlines_enclose_the_area(name):
    """The shoelace formula over exteriors less holes is the number of pixels."""

    def enclosed(ring):
        x, y = ring.T
        return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2

    outlines = polygons(MaskPatch.of(SHAPES[name]))
    areas = [enclosed(p.exterior) - sum(enclosed(hole) for hole in p.holes) for p in outlines.polygons]
    assert sum(areas) == SHAPES[name].sum()


def test_a_disc_drawn_by_pillow_comes_back():
    """A photograph-sized round mask, drawn by another library, survives its outline."""
    image = Image.new("1", (1500, 1100))
    ImageDraw.Draw(image).ellipse((200, 100, 1300, 1000), fill=1)
    mask = np.asarray(image)
    outlines = polygons(MaskPatch.of(mask))
    assert len(outlines.polygons) == 1
    assert np.array_equal(fill(outlines), mask)
