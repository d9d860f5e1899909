"""A picture or a frame after the encoder, and prompts as the prompt encoder takes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cutout_server.types import ObjectPrompt

_BOX_LABELS = (2, 3)  # The prompt encoder takes a box as its two corners, each with a label of its own.


@dataclass(frozen=True, eq=False)
class Sam2Embedding:
    """A picture after the encoder, on the model's device.

    Attributes:
        image_size: (height, width) in pixels.
        features: (1, C, 64, 64) float32, before anything is said of what was seen earlier.
        high_res_feats: (1, C/8, 256, 256) and (1, C/4, 128, 128) float32, for the mask decoder's upscaling.
    """

    image_size: tuple[int, int]
    features: Tensor = field(repr=False)
    high_res_feats: tuple[Tensor, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in (self.features, *self.high_res_feats))


def box_and_points(prompts: Sequence[ObjectPrompt]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(N, 2 + P, 2) coordinates in pixels and (N, 2 + P) labels of prompts of one form; (N, P, 2) without a box."""
    return np.stack([_coords(prompt) for prompt in prompts]), np.stack([_labels(prompt) for prompt in prompts])


def _coords(prompt: ObjectPrompt) -> NDArray[np.float32]:
    box = prompt.box
    corners = [(box.x_min, box.y_min), (box.x_max, box.y_max)] if box else []
    return np.concatenate([np.array(corners, np.float32).reshape(-1, 2), prompt.points]).astype(np.float32, copy=False)


def _labels(prompt: ObjectPrompt) -> NDArray[np.int32]:
    corners = _BOX_LABELS if prompt.box else ()
    return np.concatenate([np.array(corners, np.int32), prompt.labels]).astype(np.int32, copy=False)
