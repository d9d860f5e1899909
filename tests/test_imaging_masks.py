"""Cleaning, suppression, stability, and the server's encodings."""

import numpy as np
import pytest
from cutout_common.masks import bits_decode, png_decode, polygons_decode, rle_decode
from cutout_server.imaging import masks
from cutout_server.imaging.nms import mask_nms
from cutout_server.types import BitMask, Box, MaskFormat, MaskPatch, Options, PngMask, PolygonMask, Rle
from hypothesis import given, settings
from hypothesis import strategies as st
from masks_fixtures import MASKS, SHAPES
from pycocotools import mask as coco
from scipy import ndimage

EIGHT = np.ones((3, 3))


def clean(mask, max_hole_area, min_part_area):
    return masks.clean(MaskPatch.of(mask), max_hole_area, min_part_area).whole()


def clean_slowly(mask, max_hole_area, min_part_area):
    """The same by scipy, one component at a time over the whole mask; one answer for each part that is the largest."""
    cleaned = mask.copy()
    labels, count = ndimage.label(np.pad(~mask, 1, constant_values=True), EIGHT)
    for hole in range(1, count + 1):
        if hole != labels[0, 0] and (labels == hole).sum() <= max_hole_area:
            cleaned |= (labels == hole)[1:-1, 1:-1]
    labels, count = ndimage.label(cleaned, EIGHT)
    areas = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(areas >= min_part_area) + 1
    return [np.isin(labels, [*large, largest + 1]) for largest in np.flatnonzero(areas == areas.max(initial=0))]


@settings(max_examples=200, deadline=None)
@given(MASKS, st.integers(0, 12), st.integers(0, 12))
def test_cleaning_is_what_scipy_makes_of_it(mask, max_hole_area, min_part_area):
    """Holes, then parts, 8-connected; the largest part stays."""
    before = mask.copy()
    cleaned = clean(mask, max_hole_area, min_part_area)
    expected = clean_slowly(mask, max_hole_area, min_part_area) or [mask]
    assert any(np.array_equal(cleaned, answer) for answer in expected)
    assert np.array_equal(mask, before)


def test_cleaning_knows_its_bounds():
    """A hole of the given area is filled, a part of the given area stays."""
    mask = np.zeros((12, 20), np.bool_)
    mask[1:9, 1:9] = True
    mask[3:5, 3:5] = False
    mask[2:5, 12:14] = True
    assert np.array_equal(clean(mask, 3, 6), mask)
    assert clean(mask, 4, 6).sum() == mask.sum() + 4
    assert clean(mask, 3, 7).sum() == mask.sum() - 6
    patch = MaskPatch.of(mask)
    assert masks.clean(patch, 0, 0) is patch


def test_the_largest_part_stays_and_the_outside_is_no_hole():
    """However small it is."""
    speck = np.zeros((5, 5), np.bool_)
    speck[2, 2] = True
    assert np.array_equal(clean(speck, 10**6, 10**6), speck)
    notch = np.ones((5, 5), np.bool_)
    notch[0, 2] = False
    assert np.array_equal(clean(notch, 10**6, 0), notch)


def nms_slowly(pixels, scores, labels, threshold):
    kept = []
    for i in sorted(range(len(pixels)), key=lambda i: -scores[i]):
        rivals = [pixels[j] for j in kept if labels[i] == labels[j]]
        if all((pixels[i] & j).sum() <= threshold * max(1, (pixels[i] | j).sum()) for j in rivals):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 1.0])
def test_nms_is_greedy_by_score_within_a_label(threshold):
    """Indices of what stays, best first, as compared pixel by pixel."""
    chance = np.random.default_rng(5)
    pixels = np.zeros((60, 60, 80), np.bool_)
    for mask in pixels[1:]:
        (top, left), (height, width) = chance.integers(0, 12, 2) * 4, chance.integers(3, 5, 2) * 4
        mask[top : top + height, left : left + width] = chance.random((min(height, 60 - top), width)) < 0.97
    scores = chance.integers(0, 20, 60) / 20
    labels = chance.choice(["cat", "dog"], 60)
    kept = mask_nms([masks.to_rle(MaskPatch.of(mask)) for mask in pixels], scores, labels, threshold)
    assert kept == nms_slowly(pixels, scores, labels, threshold)
    assert len(kept) == 60 if threshold == 1 else len(kept) < 60


def test_nms_keeps_what_only_meets_the_threshold():
    """It must be exceeded."""
    pixels = np.zeros((2, 1, 3), np.bool_)
    pixels[0, 0, :2] = pixels[1, 0, :] = True
    rles = [masks.to_rle(MaskPatch.of(mask)) for mask in pixels]
    assert mask_nms(rles, [0.1, 0.2], ["", ""], 2 / 3) == [1, 0]
    assert mask_nms(rles, [0.1, 0.2], ["", ""], 0.66) == [1]
    assert mask_nms([], [], [], 0.5) == []


def test_nms_of_hundreds_of_masks_looks_at_few_pairs(monkeypatch: pytest.MonkeyPatch):
    """Boxes settle most pairs."""
    chance = np.random.default_rng(5)
    rles = []
    for _ in range(400):
        mask = np.zeros((600, 900), np.bool_)
        top, left = chance.integers(0, 550), chance.integers(0, 850)
        mask[top : top + 50, left : left + 50] = True
        rles.append(masks.to_rle(MaskPatch.of(mask)))
    iou, pairs = coco.iou, []
    monkeypatch.setattr(coco, "iou", lambda some, others, crowd: pairs.extend(some) or iou(some, others, crowd))
    mask_nms(rles, list(chance.random(400)), [0] * 400, 0.5)
    assert 0 < len(pairs) < 400


def test_stability_is_the_iou_of_shifted_thresholds():
    """Counted by hand."""
    logits = np.array([[-3, -0.5, 0.5, 3, 4]], np.float32)
    assert masks.stability_score(logits, 0.0) == 2 / 4
    assert masks.stability_score(logits, 0.0, offset=0.1) == 3 / 3
    assert masks.stability_score(logits, 10.0) == 0


@pytest.mark.parametrize("name", SHAPES)
def test_every_format_gives_the_mask_back(name):
    """RLE, PNG, bits and polygons of one mask agree, and so do its box and area."""
    mask = SHAPES[name]
    rle = masks.to_rle(MaskPatch.of(mask))
    assert (rle.height, rle.width) == mask.shape
    assert masks.area(rle) == mask.sum()
    rows, columns = np.nonzero(mask)
    box = masks.tight_box(rle)
    assert box == (Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if mask.any() else None)
    for mask_format in MaskFormat:
        match masks.encode(rle, mask_format, Options()):
            case Rle() as same:
                assert np.array_equal(rle_decode(same.height, same.width, same.counts), mask)
            case PngMask(data):
                assert np.array_equal(png_decode(data), mask)
            case BitMask(height, width, data):
                assert np.array_equal(bits_decode(height, width, data), mask)
            case PolygonMask(height, width, parts):
                assert np.array_equal(polygons_decode(height, width, [[p.exterior, *p.holes] for p in parts]), mask)


def test_union_is_of_any_number():
    """One mask is itself; more are what any of them covers."""
    pixels = np.random.default_rng(4).random((5, 20, 30)) < 0.2
    rles = [masks.to_rle(MaskPatch.of(mask)) for mask in pixels]
    assert masks.union(rles[:1]) == rles[0]
    assert np.array_equal(masks.from_rle(masks.union(rles)).whole(), pixels.any(axis=0))
