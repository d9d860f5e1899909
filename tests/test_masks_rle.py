"""Run-length encoding, held against pycocotools."""

import numpy as np
import pytest
from cutout_common.masks import rle_area, rle_box, rle_decode, rle_encode, rle_iou, rle_union
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from masks_fixtures import MASKS, SHAPES
from pycocotools import mask as coco

# pycocotools has not followed NumPy 2 everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def coco_encode(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def assert_equal_to_coco(mask):
    counts, theirs = rle_encode(mask), coco_encode(mask)
    assert counts == theirs["counts"]
    assert np.array_equal(coco.decode({"size": [*mask.shape], "counts": counts}), mask)
    decoded = rle_decode(*mask.shape, counts)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)
    assert np.array_equal(rle_decode(*mask.shape, counts.decode()), mask)
    assert rle_area(*mask.shape, counts) == coco.area(theirs) == mask.sum()
    x, y, width, height = coco.toBbox(theirs)
    assert rle_box(*mask.shape, counts) == ((x, y, x + width, y + height) if mask.any() else None)


@pytest.mark.parametrize("name", SHAPES)
def test_awkward_shapes_are_equal_to_pycocotools(name):
    """Counts, mask, area and box, both ways."""
    assert_equal_to_coco(SHAPES[name])


@given(MASKS)
def test_any_mask_is_equal_to_pycocotools(mask):
    """Counts, mask, area and box, both ways."""
    assert_equal_to_coco(mask)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_memory_layout_does_not_matter(order, step):
    """Transposed, reversed and strided views are encoded as what they show."""
    view = np.asarray(SHAPES["noise"], order=order)[::step, ::step]
    assert_equal_to_coco(view)


def test_integer_masks_are_taken_by_truth():
    """Whatever is not zero is inside."""
    assert rle_encode(np.array([[0, 7], [255, 0]], np.uint8)) == rle_encode(np.array([[0, 1], [1, 0]], np.bool_))


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 15), st.integers(1, 15))))
def test_union_and_iou_are_equal_to_pycocotools(masks):
    """Of any number of masks."""
    theirs = [coco_encode(mask) for mask in masks]
    counts = [rle_encode(mask) for mask in masks]
    size = masks.shape[1:]
    assert rle_union(*size, counts) == rle_encode(masks.any(axis=0))
    assert np.allclose(rle_iou(*size, counts, counts), coco.iou(theirs, theirs, [0] * len(theirs)))


def test_nothing_to_unite_or_compare():
    """No masks make an empty mask and an empty table."""
    assert rle_union(3, 4, []) == rle_encode(np.zeros((3, 4), np.bool_))
    assert rle_iou(3, 4, [], [rle_encode(np.ones((3, 4), np.bool_))]).shape == (0, 1)


def test_runs_of_no_length_are_understood():
    """Other encoders may write them in the middle; the mask, and what is computed from it, are the same."""
    # 2 out, 1 in, 0 out, 1 in, 0 out, 0 in, 2 out: each from the fourth on less the one two before.
    odd = bytes(48 + (value & 31) for value in (2, 1, 0, 0, 0, -1, 2))
    mask = np.array([[0, 0, 1, 1, 0, 0]], np.bool_)
    assert np.array_equal(rle_decode(1, 6, odd), mask)
    assert rle_area(1, 6, odd) == 2
    assert rle_union(1, 6, [odd]) == rle_encode(mask)
    assert rle_iou(1, 6, [odd], [rle_encode(mask)]) == [[1.0]]


@pytest.mark.parametrize(
    "counts", [b"", b"5", b"7", b"0" * 50, b"P", b"~~~", b"\x00", b"\xff", b"6P", b"PPPPPPPPP0", b"O7"]
)
def test_counts_that_do_not_fit_are_refused(counts):
    """Too few, too many, cut short, negative, endless or no counts at all."""
    with pytest.raises(ValueError, match="expected"):
        rle_decode(2, 3, counts)


@given(st.binary(max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_garbage_is_refused_or_read_as_pycocotools_reads_it(counts, height, width):
    """No bytes bring anything but a mask or a ValueError."""
    try:
        mask = rle_decode(height, width, counts)
    except ValueError:
        return
    assert np.array_equal(coco.decode({"size": [height, width], "counts": counts}), mask)


@given(MASKS, st.data())
def test_damaged_counts_are_refused_or_another_mask(mask, data):
    """A changed byte never gets past the check of the sum with another size."""
    counts = bytearray(rle_encode(mask))
    counts[data.draw(st.integers(0, len(counts) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert rle_decode(*mask.shape, bytes(counts)).shape == mask.shape
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_sizes_without_pixels_are_refused(size):
    """There is no such mask."""
    with pytest.raises(ValueError, match="at least 1 x 1"):
        rle_decode(*size, b"0")


@pytest.mark.slow
def test_a_hundred_megapixels_are_encoded_and_decoded():
    """The size follows the outline, not the picture."""
    mask = np.zeros((10_000, 10_000), np.bool_)
    mask[1000:9000, 500:9900] = True
    mask[3000:4000, 3000:4000] = False
    counts = rle_encode(mask)
    assert len(counts) < 100_000
    assert np.array_equal(rle_decode(*mask.shape, counts), mask)
    assert counts == coco_encode(mask)["counts"]
