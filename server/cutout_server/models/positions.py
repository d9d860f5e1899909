"""Position encodings without transformers' caches, which would keep what they last made when the model is gone."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn


class Positions(nn.Module):
    """Position encodings that are computed once for all pictures of a batch, as they are the same.

    Args:
        encoding: transformers' own, such as a neck's.
    """

    def __init__(self, encoding: Any) -> None:
        super().__init__()
        self._build: Any = inspect.unwrap(encoding.build_sine_position_embedding)
        self._arguments = (encoding.num_position_features, encoding.normalize, encoding.scale, encoding.temperature)

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype, _mask: None = None) -> Tensor:
        """Of that shape, (B, C, h, w)."""
        encoding: Tensor = self._build((1, *shape[1:]), device, dtype, *self._arguments)
        return encoding.expand(shape)


class NoPositions(nn.Module):
    """In place of position encodings that nothing reads: zeros that take no memory."""

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype, _mask: None = None) -> Tensor:
        """Zeros of that shape."""
        return torch.zeros((), device=device, dtype=dtype).expand(shape)


def take_positions(stills: Any) -> Tensor:
    """(1, C, h, w) float32: the positional encoding of a frame's tokens, the same for all; pictures need none.

    Args:
        stills: An `EdgeTamModel` or `Sam3TrackerModel`, which makes none any more afterwards.
    """
    neck, (height, width) = stills.vision_encoder.neck, stills.backbone_feature_sizes[-1]
    shape = torch.Size((1, stills.no_memory_embedding.shape[-1], height, width))
    positions: Tensor = Positions(neck.position_encoding)(shape, stills.device, torch.float32)
    neck.position_encoding = NoPositions()
    return positions
