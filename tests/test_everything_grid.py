"""The grid's geometry is that of the official mask generators."""

import numpy as np
import pytest
import torch
from cutout_server.imaging.nms import grid_nms
from cutout_server.pipelines.grid import Crop, crops, cut_off
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes, is_box_near_crop_edge
from torchvision.ops import nms

SIZES = [(300, 451), (100, 1000), (1001, 17), (480, 480)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0.0, 512 / 1500, 0.9])
def test_crops_are_the_references(size, overlap):
    """Boxes and layers, in the same order."""
    boxes, layers = generate_crop_boxes(size, 3, overlap)
    ours = list(crops(*size, 3, overlap))
    expected = [(box, layer) for box, layer in zip(boxes, layers, strict=True) if box[0] < box[2] and box[1] < box[3]]
    assert [([c.left, c.top, c.right, c.bottom], c.layer) for c in ours] == expected


def test_tiny_pictures_have_fewer_crops():
    """Where a crop would have no pixel there is none."""
    found = list(crops(3, 5, 3, 0.3))
    assert 1 < len(found) < 85
    assert all(crop.area > 0 for crop in found)


@pytest.mark.parametrize("downscale", [1, 2])
def test_points_are_the_references(downscale):
    """At the centres of the cells, fewer in deeper layers."""
    crop = Crop(30, 20, 330, 120, 2)
    expected = build_all_layer_point_grids(11, 2, downscale)[2] * [[300, 100]]
    assert np.array_equal(crop.points(11 // downscale**2), expected)


def test_boxes_near_a_crops_edge_are_the_references():
    """Near an edge of the crop that is no edge of the picture, to the pixel."""
    rng = np.random.default_rng(4)
    height, width = 200, 300
    for crop in crops(height, width, 2, 0.3):
        high, wide = crop.bottom - crop.top, crop.right - crop.left
        corners = np.sort(rng.integers(0, [[[wide], [high]]], (500, 2, 2)), axis=2)
        boxes = corners.transpose(0, 2, 1).reshape(500, 4)
        expected = is_box_near_crop_edge(
            torch.from_numpy(boxes), [crop.left, crop.top, crop.right, crop.bottom], [0, 0, width, height]
        )
        assert np.array_equal(cut_off(boxes.astype(np.float32), crop, height, width), expected.numpy())
        assert 0 < expected.sum() < 500 or crop.layer == 0


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_box_nms_is_torchvisions(threshold):
    """The same boxes in the same order, with equal scores, lines and empty boxes among them."""
    rng = np.random.default_rng(5)
    corners = np.sort(rng.integers(0, 12, (400, 2, 2)), axis=1).reshape(400, 4).astype(np.float32)
    scores = rng.integers(0, 9, 400).astype(np.float32)
    expected = nms(torch.from_numpy(corners), torch.from_numpy(scores), threshold).tolist()
    assert grid_nms(corners, scores.tolist(), threshold) == expected
    assert 1 < len(expected) < 400 or threshold == 1
    assert grid_nms(corners[:0], [], threshold) == []
