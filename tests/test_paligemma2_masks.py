"""Mask tokens to masks: equal to the published decoder, and pasted as its authors paste them."""

# ruff: noqa: F811 - a fixture is imported

from itertools import pairwise

import numpy as np
import pytest
from cutout_server.models.paligemma2 import PaliGemma2
from cutout_server.models.paligemma2.answers import Outline
from cutout_server.models.paligemma2.mask_decoder import read_mask_decoder
from cutout_server.models.paligemma2.segmenter import place
from cutout_server.models.queries import MaskQuery
from paligemma_checkpoints import PaliGemmaFiles, one_thread, paligemma, paligemma_files  # noqa: F401 - fixtures
from paligemma_reference import decode, paste, paste_as_shown

pytestmark = pytest.mark.slow

BOXES = [(0, 0, 1023, 1023), (100, 200, 600, 700), (5, 900, 1020, 910), (511, 511, 513, 513)]
SIZES = [(512, 512), (300, 451), (1200, 90), (64, 900), (3, 3), (1, 1), (2000, 1500)]


@pytest.mark.parametrize("number", [1, 5, 33])
def test_masks_equal_the_published_decoder(paligemma_files: PaliGemmaFiles, number: int):
    """Any number of masks at once, within 1e-4 of the layers written out in float64, alone or in company."""
    codes = np.random.default_rng(number).integers(0, 128, (number, 16))
    codes[0] = 127
    decoder = read_mask_decoder(paligemma_files.mask_decoder)
    masks = decoder.masks(codes.tolist())
    with np.load(paligemma_files.mask_decoder) as checkpoint:
        expected = decode(dict(checkpoint), codes)
    assert masks.shape == (number, 64, 64)
    assert masks.dtype == np.float32
    assert 0.1 < (expected > 0).mean() < 0.9
    assert np.abs(masks - expected).max() < 1e-4
    assert np.abs(decoder.masks(codes[-1:].tolist())[0] - masks[-1]).max() < 5e-5


def test_no_codes_are_no_masks(paligemma_files: PaliGemmaFiles):
    """Nothing found costs nothing."""
    assert read_mask_decoder(paligemma_files.mask_decoder).masks([]).shape == (0, 64, 64)


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_pasted_into_their_boxes(paligemma: PaliGemma2, paligemma_files: PaliGemmaFiles, size):
    """In pictures tall, wide, tiny and large: identical to the evaluator's in the box of the demonstration."""
    height, width = size
    with np.load(paligemma_files.mask_decoder) as checkpoint:
        logits = decode(dict(checkpoint), np.arange(64).reshape(4, 16)).astype(np.float32)
    queries = [
        MaskQuery(place(Outline(box, (), 0), size)[1], each, 0.0) for box, each in zip(BOXES, logits, strict=True)
    ]
    masks = [patch.whole() for patch in paligemma.masks(queries)]
    for box, each, mask in zip(BOXES, logits, masks, strict=True):
        assert mask.shape == size
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, paste(each, box, height, width))
    assert min(size) < 64 or masks[0].mean() > 0.05


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_masks_are_those_that_the_demonstration_shows(paligemma: PaliGemma2, photos, name):
    """Where masks are as smooth as trained ones, its coarse grey steps and bicubic stretch change few pixels."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    logits = np.clip(4 * (0.7 - np.hypot(x, y * 1.3)), -1, 1).astype(np.float32)
    height, width = photos[name].pixels.shape[:2]
    for box in BOXES[:3]:
        window = place(Outline(box, (), 0), (height, width))[1]
        mask = paligemma.masks([MaskQuery(window, logits, 0.0)])[0].whole()
        shown = paste_as_shown(logits, box, height, width)
        assert shown.any()
        assert (mask != shown).sum() <= 0.02 * shown.sum()


def test_thresholds_move_the_boundary(paligemma: PaliGemma2):
    """A higher threshold gives a smaller mask within the larger one; beyond the logits nothing or the box is left."""
    logits = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    window = place(Outline(BOXES[1], (), 0), (400, 300))[1]
    patches = paligemma.masks([MaskQuery(window, logits, threshold) for threshold in (-2.0, -0.5, 0.0, 0.5, 2.0)])
    masks = [patch.whole() for patch in patches]
    areas = [int(mask.sum()) for mask in masks]
    assert areas == sorted(areas, reverse=True)
    assert all((small <= large).all() for large, small in pairwise(masks))
    rows, columns = window.rows, window.columns
    assert areas[0] == (rows[1] - rows[0]) * (columns[1] - columns[0])
    assert len(set(areas)) == 5
    assert areas[-1] == 0
