"""Overlays: what is drawn, where, and where not."""

import io
import itertools
import weakref

import numpy as np
import pytest
import skimage.data
from cutout_common import masks
from cutout_common.labels import Plate, place
from cutout_common.overlay import (
    OverlayItem,
    OverlayPoint,
    color_of,
    draw,
    encode_jpeg,
    encode_png,
)
from cutout_server.imaging.overlays import draw_overlay
from cutout_server.types import Box, OverlayFormat, Picture, Rle, SegmentedObject
from masks_fixtures import SHAPES
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

CAT = skimage.data.chelsea()
LETTERS = 14.0

# Machado et al. 2009, severity 1: what is left of linear RGB in protanopia and deuteranopia.
DEFICIENCIES = {
    "all colours": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
}


def disc(size, center, radius):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.hypot(x - center[0], y - center[1]) < radius


def changed(before, after):
    return (before != after).any(axis=2)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_first_colours_are_told_apart_by_everybody(deficiency):
    """CIEDE2000 between any two of the first seven, as seen with and without red or green receptors."""
    linear = (np.array([color_of(i) for i in range(7)]) / 255) ** 2.2
    seen = rgb2lab(np.clip(linear @ DEFICIENCIES[deficiency].T, 0, 1) ** (1 / 2.2))
    assert min(deltaE_ciede2000(a, b) for a, b in itertools.combinations(seen, 2)) > (
        15 if deficiency == "all colours" else 7
    )


def test_neighbours_never_look_alike_and_colours_stay():
    """However many objects there are."""
    colors = [color_of(i) for i in range(200)]
    assert colors == [color_of(i) for i in range(200)]
    assert len(set(colors)) == 200
    lab = rgb2lab(np.array(colors) / 255)
    assert min(deltaE_ciede2000(a, b) for a, b in itertools.pairwise(lab)) > 20


@pytest.mark.parametrize(
    "box", [Box(40.6, 50.6, 40.9, 50.9), Box(100.6, 3, 101.4, 80), Box(450.6, 299.6, 451, 300), Box(0, 0, 0.2, 0.2)]
)
def test_prompt_boxes_of_less_than_a_pixel(box):
    """Detectors give such boxes too: what there is of them is drawn."""
    mask = disc(CAT.shape, (200, 150), 20)
    drawn = draw(CAT, [OverlayItem(mask, prompt_box=box)])
    assert changed(CAT, drawn)[disc(CAT.shape, (200, 150), 20)].all()


def test_a_mask_is_tinted_and_outlined_and_the_rest_left_alone():
    """The tint is translucent, the outline opaque, and nothing changes far from it."""
    mask = disc(CAT.shape, (200, 150), 60)
    before = CAT.copy()
    drawn = draw(CAT, [OverlayItem(mask)])
    assert np.array_equal(before, CAT)
    assert drawn.shape == CAT.shape
    assert drawn.dtype == np.uint8
    assert not changed(CAT, drawn)[~disc(CAT.shape, (200, 150), 68)].any()
    inner = disc(CAT.shape, (200, 150), 50)
    expected = CAT[inner] * 0.58 + np.array(color_of(0)) * 0.42
    assert np.abs(drawn[inner] - expected).max() <= 2
    assert drawn[150, 259].tolist() == pytest.approx(color_of(0), abs=12)


@pytest.mark.parametrize("factor", [1, 4])
def test_lines_and_letters_grow_with_the_picture(factor):
    """The same share of the picture is covered whatever its size."""
    size = (300 * factor, 450 * factor, 3)
    grey = np.full(size, 128, np.uint8)
    mask = disc(size, (225 * factor, 150 * factor), 80 * factor)
    drawn = draw(grey, [OverlayItem(mask, "round", 0.5)])
    outside = changed(grey, drawn) & ~mask
    assert 0.006 < outside.mean() < 0.03


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_shows(name):
    """Single pixels and hairlines, too: every pixel inside is changed."""
    mask = SHAPES[name]
    grey = np.full((*mask.shape, 3), 128, np.uint8)
    assert changed(grey, draw(grey, [OverlayItem(mask, "x")]))[mask].all()


def test_smaller_objects_lie_above_larger_ones_in_either_order():
    """A part is seen on its whole, and each keeps the colour of its place."""
    large, small = disc(CAT.shape, (200, 150), 90), disc(CAT.shape, (200, 150), 30)
    edge = (150, 229)  # On the outline of the small one.
    assert draw(CAT, [OverlayItem(large), OverlayItem(small)])[edge].tolist() == pytest.approx(color_of(1), abs=12)
    assert draw(CAT, [OverlayItem(small), OverlayItem(large)])[edge].tolist() == pytest.approx(color_of(0), abs=12)


def test_prompts_are_drawn():
    """A box as a line around it, points as discs that differ by more than colour."""
    mask = disc(CAT.shape, (200, 150), 20)
    plain = draw(CAT, [OverlayItem(mask)])
    boxed = draw(CAT, [OverlayItem(mask, prompt_box=Box(100, 50, 300, 250))])
    assert changed(plain, boxed)[50, 100:300].all()
    assert changed(plain, boxed)[50:250, 299].all()
    assert not changed(plain, boxed)[60:240, 110:290].any()
    inside, outside = (draw(CAT, [], points=[OverlayPoint(60, 60, label)]) for label in (1, 0))
    assert changed(CAT, inside)[60, 60]
    grey = [drawn[50:71, 50:71].astype(int).sum(axis=2) > 700 for drawn in (inside, outside)]
    assert (grey[0] & ~grey[1]).sum() >= 2, "the plus has an upright arm, the minus has none"


@pytest.mark.parametrize(
    ("box", "pixel"),
    [(Box(44.2, 68.6, 44.4, 69.4), (44, 69)), (Box(450.8, 299.7, 451, 300), (450, 299)), (Box(0, 0, 0.1, 0.1), (0, 0))],
    ids=str,
)
def test_a_box_narrower_than_a_pixel_is_drawn(box, pixel):
    """On the pixel where it is, the last one of the picture too; Pillow may draw its neighbour as well."""
    nothing = np.zeros(CAT.shape[:2], np.bool_)
    drawn = changed(CAT, draw(CAT, [OverlayItem(nothing, prompt_box=box)]))
    places = [(x, y) for y, x in np.argwhere(drawn)]
    assert pixel in places
    assert len(places) <= 2


def test_nothing_to_draw_is_the_picture_itself():
    """No items, empty masks, and pictures too small for a label."""
    assert np.array_equal(draw(CAT, []), CAT)
    assert np.array_equal(draw(CAT, [OverlayItem(np.zeros(CAT.shape[:2], np.bool_), "nothing", 0.1)]), CAT)
    assert draw(np.zeros((1, 1, 3), np.uint8), [OverlayItem(np.ones((1, 1), np.bool_), "one")]).shape == (1, 1, 3)


def test_masks_of_another_size_are_refused():
    """Rather than drawn somewhere."""
    with pytest.raises(ValueError, match="expected masks of 451 x 300 pixels, got 300 x 451"):
        draw(CAT, [OverlayItem(np.ones((451, 300), np.bool_))])


@pytest.mark.parametrize("text", ["cat", "two\nlines\tof words", "x" * 300, "Ünïcode ✓ 猫", "0.5"])
def test_any_label_is_written_inside_the_picture(text):
    """Long ones are shortened, line breaks are spaces."""
    mask = disc(CAT.shape, (440, 10), 8)
    drawn = draw(CAT, [OverlayItem(mask, text, 0.5)])
    assert changed(CAT, drawn)[:60].sum() > mask.sum() + 200


def corners_of(plates, size):
    return [(*corner, *np.add(corner, plate.size(LETTERS))) for plate, corner in place(plates, size, LETTERS)]


def test_labels_stay_inside_and_off_each_other_where_they_can():
    """Objects at one place, at the edges and in the corners."""
    boxes = [(200, 150, 300, 260)] * 6 + [(0, 0, 30, 30), (420, 0, 451, 20), (0, 280, 30, 300), (430, 290, 451, 300)]
    placed = corners_of([Plate(i, f"object {i}", box, box[0], color_of(i)) for i, box in enumerate(boxes)], (451, 300))
    assert len(placed) == len(boxes)
    for left, top, right, bottom in placed:
        assert 0 <= left < right <= 451
        assert 0 <= top < bottom <= 300
    for a, b in itertools.combinations(placed, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_hangs_together_with_its_object():
    """Above the peak of a triangle, not in the empty corner of its box."""
    (left, _, right, bottom), *_ = corners_of([Plate(0, "cat", (50, 100, 350, 200), 200, color_of(0))], (400, 300))
    assert left < 200 < right
    assert bottom == 100


def test_labels_without_any_room_are_left_out():
    """A picture lower than a line has none."""
    assert corners_of([Plate(0, "cat", (0, 0, 9, 5), 4, color_of(0))], (400, 5)) == []


def test_a_thousand_crowded_labels_are_placed_in_a_moment():
    """Time does not grow with the square of their number to where it hurts."""
    plates = [Plate(i, f"object {i}", (i % 30, i % 40, 1900, 1000), i, color_of(i)) for i in range(1000)]
    assert len(corners_of(plates, (1920, 1080))) == 1000


def test_one_mask_is_held_at_a_time():
    """Masks are asked for one after the other and let go."""
    alive = []

    class Lazy:
        area, label, score, prompt_box, image_size = 100, "lazy", None, None, CAT.shape[:2]

        @property
        def part(self):
            assert not any(reference() is not None for reference in alive)
            mask = disc(CAT.shape, (200, 150), 40)
            alive.append(weakref.ref(mask))
            return 0, 0, mask

    assert changed(CAT, draw(CAT, [Lazy() for _ in range(5)])).any()
    assert len(alive) == 5


def test_files_hold_the_picture():
    """PNG exactly, JPEG nearly."""
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(CAT)))), CAT)
    image = Image.open(io.BytesIO(encode_jpeg(CAT)))
    assert image.format == "JPEG"
    assert np.abs(np.asarray(image).astype(int) - CAT).mean() < 3


@pytest.mark.parametrize("file_format", OverlayFormat)
def test_the_server_draws_its_objects(file_format):
    """An answer's objects become the overlay that the shared drawing makes of their masks."""
    mask = disc(CAT.shape, (200, 150), 60)
    found = SegmentedObject(
        prompt_index=0,
        label="cat",
        detection_score=0.75,
        predicted_iou=0.5,
        stability_score=None,
        prompt_box=Box(100, 50, 300, 250),
        box=Box(141, 91, 260, 210),
        area=int(mask.sum()),
        mask=Rle(*mask.shape, masks.rle_encode(mask)),
    )
    file = draw_overlay(Picture.of(CAT, "cat"), [found], file_format)
    assert file.content_type == file_format.value
    drawn = np.asarray(Image.open(io.BytesIO(file.data)))
    expected = draw(CAT, [OverlayItem(mask, "cat", 0.75, found.prompt_box)])
    assert np.abs(drawn.astype(int) - expected).mean() < (1e-9 if file_format is OverlayFormat.PNG else 3)
