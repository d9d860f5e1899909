"""The backbone, Swin (https://arxiv.org/abs/2103.14030), with all that depends on the picture's size made once."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cutout_server.models.grounding_dino.layers import joined, linear, perceptron

_CUTS = 32  # Two for each stage of a picture's size.
_APART = -100.0  # What the reference adds between positions that only the shift has made neighbours.


@dataclass(frozen=True)
class Windows:
    """How a map is cut into windows; those in which the shift brings strangers together are the last ones.

    Attributes:
        index: (windows * area,) int64, the position in the map of each position of the windows; 0 for padding.
        padding: (P,) int64, the positions of the windows that are padding.
        back: (height * width,) int64, the position in the windows of each position of the map.
        apart: (strange windows, 1, area, area) of 0 and the reference's -100.
    """

    index: Tensor
    padding: Tensor
    back: Tensor
    apart: Tensor


def cut(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Windows:
    """Windows of a map of (height, width) positions, `window` wide and high, shifted by `shift` in both directions."""
    padded = [-(-side // window) * window for side in size]
    y, x = torch.meshgrid(*(torch.arange(side, device=device) for side in padded), indexing="ij")
    inside = (y < size[0]) & (x < size[1])
    position = torch.where(inside, y * size[1] + x, -1)
    # Regions of the shifted map, numbered as in the reference: 0 but in the windows at its end.
    first, second = (
        (torch.arange(side, device=device) >= side - window).long()
        + (torch.arange(side, device=device) >= side - shift).long() * (shift > 0)
        for side in padded
    )
    region = (first[:, None] * 3 + second) * (shift > 0)

    def windows(values: Tensor) -> Tensor:
        rows = values.view(padded[0] // window, window, padded[1] // window, window)
        return rows.transpose(1, 2).reshape(-1, window * window)

    regions = windows(region)
    strange = (regions != regions[:, :1]).any(-1)
    order = strange.to(torch.uint8).argsort(stable=True)
    flat = windows(position.roll((-shift, -shift), (0, 1)))[order].flatten()
    own = regions[order][len(order) - int(strange.sum()) :]
    apart = torch.where(own[:, :, None] == own[:, None], 0.0, _APART)
    back = torch.empty(size[0] * size[1], dtype=torch.int64, device=device)
    (real,) = torch.where(flat >= 0)
    back[flat[real]] = real
    return Windows(flat.clamp(min=0), torch.where(flat < 0)[0], back, apart[:, None])


class Swin:
    """A SwinBackbone of transformers; shares its parameters, and is given pictures whole.

    The stream from block to block is float32; layers compute in the dtype of their weights.

    Args:
        backbone: In eval mode, on its device.
    """

    def __init__(self, backbone: Any) -> None:
        self._embed = backbone.swin.embeddings
        self._stages = [
            ([_Block(block) for block in stage.blocks], stage.downsample) for stage in backbone.swin.encoder.layers
        ]
        self._norms = [
            backbone.hidden_states_norms[name] if name in backbone.out_features else None
            for name in backbone.stage_names[1:]
        ]
        device = backbone.device
        self._cuts = lru_cache(_CUTS)(lambda size, window, shift: cut(size, window, shift, device))

    def __call__(self, pixels: Tensor) -> list[tuple[Tensor, tuple[int, int]]]:
        """The maps of the stages that are wanted.

        Args:
            pixels: (N, 3, h, w) float32.

        Returns:
            (N, height * width, C) float32 with (height, width), for each.
        """
        stream, size = self._embed(pixels)
        maps = []
        for (blocks, downsample), norm in zip(self._stages, self._norms, strict=True):
            for block in blocks:
                stream = block(stream, self._cuts(size, block.window, block.shift))
            if norm is not None:
                maps.append((norm(stream), size))
            if downsample is not None:
                merged = downsample.maybe_pad(torch.unflatten(stream, 1, size), *size)
                parts = [merged[:, row::2, column::2] for column in range(2) for row in range(2)]
                merged = downsample.norm(torch.cat(parts, dim=-1).flatten(1, 2))
                stream = linear(merged, downsample.reduction).float()
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        return maps


class _Block:
    def __init__(self, block: Any) -> None:
        attention = block.attention
        self.window: int = block.window_size
        self.shift: int = block.shift_size
        self._before, self._after, self._mlp = block.layernorm_before, block.layernorm_after, block.mlp
        self._heads: int = attention.num_attention_heads
        self._size: int = attention.head_dim
        self._projections = joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self._output = attention.o_proj
        self._bias = attention.relative_position_bias().to(attention.q_proj.weight.dtype)

    def __call__(self, stream: Tensor, windows: Windows) -> Tensor:
        taken = self._before(stream).to(self._output.weight.dtype).index_select(1, windows.index)
        taken.index_fill_(1, windows.padding, 0)
        projected = linear(taken, *self._projections).view(len(stream), -1, self.window**2, 3, self._heads, self._size)
        strange = len(windows.apart)
        usual = projected.shape[1] - strange
        answer = self._attend(projected[:, :usual], self._bias)
        if strange:
            mask = (self._bias + windows.apart.to(self._bias.dtype)).repeat(len(stream), 1, 1, 1)
            answer = torch.cat([answer, self._attend(projected[:, usual:], mask)], dim=1)
        stream = stream + linear(answer.index_select(1, windows.back), self._output)
        layers = (self._mlp.fc1, self._mlp.fc2)
        return stream.add_(perceptron(self._after(stream), layers, self._mlp.activation_fn))

    def _attend(self, projected: Tensor, mask: Tensor) -> Tensor:
        """(N, windows, area, 3, heads, size) to (N, windows * area, C); the mask is broadcast over the windows."""
        q, k, v = projected.flatten(0, 1).permute(2, 0, 3, 1, 4).unbind()
        answer = functional.scaled_dot_product_attention(q, k, v, mask.expand(len(q), -1, -1, -1))
        return answer.transpose(1, 2).reshape(len(projected), -1, self._heads * self._size)
