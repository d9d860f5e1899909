"""Boxes of what the network sees without being told where: what stands out, and the animal that a face belongs to."""

import numpy as np

from cutout_server.models.builtin.boxes import Find, suppress
from cutout_server.models.builtin.crops import Window
from cutout_server.models.builtin.decode import CropMask, extent, predict_masks
from cutout_server.models.builtin.embedding import BuiltinEmbedding
from cutout_server.models.builtin.network import Network
from cutout_server.models.builtin.propose import propose
from cutout_server.types import Box, ObjectPrompt

_CLICKS = 8  # A side: what stands out is not small.
_MOST = 3
_SIDES = (1.6, 3.0, 5.0)  # Of the crops around a face, in faces.
_FACE_MARGIN = 0.1


def salient(network: Network, embedding: BuiltinEmbedding) -> list[Find]:
    """Boxes of what stands out most: the likeliest masks, less so the more of the picture's edge they hold."""
    found: list[Find] = []
    candidates = propose(network, embedding, _CLICKS)
    for logits, quality in zip(candidates.logits, candidates.predicted_iou.tolist(), strict=True):
        mask = logits > 0
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        box = extent(CropMask(embedding.frame, logits, quality))
        if box:
            found.append((box, quality * (1 - float(edge.mean()))))
    return suppress(found)[:_MOST]


def around_face(network: Network, embedding: BuiltinEmbedding, face: Box) -> Box:
    """A box around the animal that a face belongs to: of the likeliest mask that a click on the face gives."""
    x, y, side = (face.x_min + face.x_max) / 2, (face.y_min + face.y_max) / 2, face.x_max - face.x_min
    click = ObjectPrompt(points=np.array([[x, y]], np.float32), labels=np.ones(1, np.int32))
    seen = predict_masks(network, embedding, [(Window.at(x, y, scale * side), click, None) for scale in _SIDES])
    best = max((answer for masks in seen for answer in masks), key=lambda answer: answer.quality)
    pad = _FACE_MARGIN * side
    head = Box(face.x_min - pad, face.y_min - pad, face.x_max + pad, face.y_max + pad)
    body = extent(best) or head
    whole = Box(
        min(head.x_min, body.x_min),
        min(head.y_min, body.y_min),
        max(head.x_max, body.x_max),
        max(head.y_max, body.y_max),
    )
    return whole.clipped(*embedding.image_size) or face
