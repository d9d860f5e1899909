"""Non-maximum suppression: of finds that overlap too much, the best stays.

All three are greedy, best first. They differ in what overlaps: a detector's boxes, before there are masks; the boxes of
a grid's masks, which must fall as in the official mask generators; the masks themselves, by the caller's option.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import cv2
import numpy as np
from cutout_common import masks as codec
from cutout_server.imaging import masks
from cutout_server.types import Box, Rle
from numpy.typing import NDArray
from pycocotools import mask as coco

Boxes = NDArray[np.float32]  # (N, 4), x_min, y_min, x_max, y_max


def detection_nms(
    boxes: Sequence[Box], scores: Sequence[float], labels: Sequence[int], iou_threshold: float
) -> set[int]:
    """NMS by boxes among those of one label, for what detectors find: phrases do not compete with one another.

    Args:
        boxes: N boxes.
        scores: N scores.
        labels: N labels.
        iou_threshold: A box whose IoU with a better one that was kept exceeds this is left out; 1 keeps all.

    Returns:
        Indices of those that stay.
    """
    if iou_threshold >= 1 or len(boxes) < 2:
        return set(range(len(boxes)))
    corners = np.array([(box.x_min, box.y_min, box.x_max, box.y_max) for box in boxes])
    corners[:, 2:] -= corners[:, :2]  # OpenCV takes x, y, width, height.
    kept: Any = cv2.dnn.NMSBoxesBatched(corners.tolist(), scores, labels, -1.0, iou_threshold)
    return {int(index) for index in np.ravel(kept)}


def grid_nms(boxes: Boxes, scores: Sequence[float], iou_threshold: float) -> list[int]:
    """NMS by boxes, to the bit that of `torchvision.ops.nms` on the CPU: the official mask generators use that.

    Args:
        boxes: (N, 4) float32, with the last column and row inside, as they are there.
        scores: N scores; of equal ones the first goes first.
        iou_threshold: A box whose IoU with a better one that was kept exceeds this is left out.

    Returns:
        Indices of those that stay, best first.
    """
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    sorted_ = boxes[order]
    areas = (sorted_[:, 2:] - sorted_[:, :2]).prod(axis=1)
    alive = np.ones(len(order), np.bool_)
    for best in range(len(order) - 1):
        if not alive[best]:
            continue
        rest = sorted_[best + 1 :]
        low, high = np.maximum(sorted_[best, :2], rest[:, :2]), np.minimum(sorted_[best, 2:], rest[:, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        either = areas[best] + areas[best + 1 :] - shared
        with np.errstate(invalid="ignore"):  # Lines and empty boxes have no area: NaN, which exceeds nothing.
            iou = (shared / either).astype(np.float64)
        alive[best + 1 :] &= ~(iou > iou_threshold)
    return [int(index) for index in order[alive]]


def mask_nms(
    rles: Sequence[Rle], scores: Sequence[float], labels: Sequence[Hashable], iou_threshold: float
) -> list[int]:
    """NMS by masks, which are what callers get: two objects whose boxes overlap may well be apart.

    Args:
        rles: N masks of one size.
        scores: N scores; of equal ones the first goes first.
        labels: N labels.
        iou_threshold: A mask whose IoU with a better one that was kept exceeds this is left out; 1 keeps all.

    Returns:
        Indices of those that stay, best first.
    """
    order = sorted(range(len(rles)), key=lambda i: -scores[i])
    if iou_threshold >= 1 or len(rles) < 2:
        return order
    ids = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    label = np.array([ids[labels[i]] for i in order])
    box = np.array([codec.rle_box(r.height, r.width, r.counts) or (0, 0, 0, 0) for r in (rles[i] for i in order)])
    area_ = np.array([masks.area(rles[i]) for i in order])
    coded = [{"size": [rles[i].height, rles[i].width], "counts": rles[i].counts} for i in order]
    alive = np.ones(len(order), np.bool_)
    for best in range(len(order) - 1):
        if not alive[best]:
            continue
        # Masks share at most what their boxes share: most pairs need no closer look.
        low, high = np.maximum(box[best, :2], box[best + 1 :, :2]), np.minimum(box[best, 2:], box[best + 1 :, 2:])
        shared = np.minimum(np.clip(high - low, 0, None).prod(axis=1), np.minimum(area_[best], area_[best + 1 :]))
        either = area_[best] + area_[best + 1 :] - shared
        close = alive[best + 1 :] & (label[best + 1 :] == label[best]) & (shared > iou_threshold * either)
        rivals = np.flatnonzero(close) + best + 1
        if rivals.size:
            iou = coco.iou([coded[i] for i in rivals], [coded[best]], [0])[:, 0]
            alive[rivals[iou > iou_threshold]] = False
    return [order[i] for i in np.flatnonzero(alive)]
