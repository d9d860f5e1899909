"""transformers' caches, which keep parts of a model, and what it last made, on the device when the model is gone."""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def bypass(detector: Any) -> None:
    """Lets the detector compute each time what is cached for all models together; it costs little.

    Args:
        detector: A `Sam3Model`. Its answers stay the same.
    """
    neck, decoder = detector.vision_encoder.neck, detector.detr_decoder
    neck.position_encoding = _Positions(neck.position_encoding)
    # The method takes nothing from its object, which the cache would keep.
    decoder._get_coords = partial(inspect.unwrap(type(decoder)._get_coords), None)  # noqa: SLF001 - it is no API


class _Positions(nn.Module):
    """A neck's position encodings, computed once for all pictures of a batch, as they are the same."""

    def __init__(self, encoding: Any) -> None:
        super().__init__()
        self._build: Any = inspect.unwrap(encoding.build_sine_position_embedding)
        self._arguments = (encoding.num_position_features, encoding.normalize, encoding.scale, encoding.temperature)

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype, _mask: None = None) -> Tensor:
        encoding: Tensor = self._build((1, *shape[1:]), device, dtype, *self._arguments)
        return encoding.expand(shape)
