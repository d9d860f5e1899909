"""Hiera, the trunk of SAM 2, with windows that stay folded from block to block (https://arxiv.org/abs/2306.00989).

The mathematics is that of `sam2.modeling.backbones.hieradet`, and so are the weights; only the order in which the
tokens lie in memory differs. There every block partitions the picture into windows and puts it together again. Here the
tokens stay in window order for as long as the windows fit into the grid, and are put into picture order for the stages'
outputs, for global attention, and for windows that need padding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class WindowOrderHiera(nn.Module):
    """A trunk that shares the weights of another.

    Args:
        trunk: A `sam2.modeling.backbones.hieradet.Hiera` in eval mode.
        side: Of the pictures, in pixels.
        exact: Whether products are made as there, rounding for rounding.
    """

    def __init__(self, trunk: Any, side: int, *, exact: bool) -> None:
        super().__init__()
        self.patch_embed = trunk.patch_embed
        self.blocks = nn.ModuleList(_Block(block, exact=exact) for block in trunk.blocks)
        self._stage_ends = frozenset(trunk.stage_ends)
        grid = side // trunk.patch_embed.proj.stride[0]
        self._grid = grid
        with torch.no_grad():
            self.register_buffer("positions", trunk._get_pos_embed((grid, grid)).contiguous())  # noqa: SLF001

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, side, side) float to (B, C, h, w) for each stage, the finest first."""
        tokens = self.patch_embed(pixels) + self.positions
        grid, folded = self._grid, 0
        levels: list[Tensor] = []
        block: Any
        for index, block in enumerate(self.blocks):
            window = block.window if block.window and grid % block.window == 0 else 0
            if folded != window:
                if folded:
                    tokens = _unfold(tokens, folded, grid)
                if window:
                    tokens = _fold(tokens, window)
                folded = window
            tokens = block(tokens, pads=bool(block.window) and not window)
            grid, folded = grid // block.stride, folded // block.stride
            if index in self._stage_ends:
                level = _unfold(tokens, folded, grid) if folded else tokens
                level = level.permute(0, 3, 1, 2)
                # Until the first pooling the reference's tokens lie as the patch embedding's convolution wrote them,
                # channels first, and the neck's convolutions round otherwise on the other layout.
                levels.append(level if levels else level.contiguous())
        return levels


class _Block(nn.Module):
    """A `MultiScaleBlock` on (N, h, w, C) tokens: N windows, or N pictures."""

    def __init__(self, block: Any, *, exact: bool) -> None:
        super().__init__()
        attention = block.attn
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.qkv, self.out = attention.qkv, attention.proj
        self.shortcut = block.proj if block.dim != block.dim_out else None
        self.window: int = block.window_size
        self.stride: int = block.q_stride[0] if block.q_stride else 1
        self._heads: int = attention.num_heads
        self._width: int = block.dim_out
        self._exact = exact

    def forward(self, tokens: Tensor, *, pads: bool) -> Tensor:
        """The tokens after the block, h and w divided by the stride; with `pads` they are in picture order."""
        normed = self.norm1(tokens)
        beside = tokens if self.shortcut is None else self._pool(self.shortcut(normed))
        mixed = self._in_padded_windows(normed) if pads else self._attend(normed)
        tokens = beside + mixed
        after: Tensor = tokens + self.mlp(self.norm2(tokens))
        return after

    def _in_padded_windows(self, tokens: Tensor) -> Tensor:
        side, window = tokens.shape[1], self.window
        padding = -side % window
        folded = _fold(functional.pad(tokens, (0, 0, 0, padding, 0, padding)), window)
        whole = _unfold(self._attend(folded), window // self.stride, (side + padding) // self.stride)
        return whole[:, : side // self.stride, : side // self.stride]

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = self._projected(tokens)
        query = self._pool(query)
        _, height, width, _ = query.shape
        query, key, value = self._by_head(query), self._by_head(key), self._by_head(value)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(-1, height, width, self._width))
        return attended

    def _projected(self, tokens: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values, (N, h, w, C) each."""
        if self._exact:
            whole: Tensor = self.qkv(tokens)
            return whole.view(*tokens.shape[:3], 3, self._width).unbind(3)
        # To split one product takes OpenVINO longer than to make three.
        weights = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        return [functional.linear(tokens, weight, bias) for weight, bias in weights]

    def _by_head(self, tokens: Tensor) -> Tensor:
        """(N, h, w, C) to (N, heads, h * w, C / heads)."""
        count, height, width, _ = tokens.shape
        return tokens.reshape(count, height * width, self._heads, -1).transpose(1, 2)

    def _pool(self, tokens: Tensor) -> Tensor:
        """The greatest of each square of tokens; without the moves to channels first and back that a pooling needs."""
        if self.stride == 1:
            return tokens
        rows = torch.maximum(tokens[:, ::2], tokens[:, 1::2])
        return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _fold(tokens: Tensor, window: int) -> Tensor:
    """(B, grid, grid, C) to (B * windows, window, window, C)."""
    batch, grid, _, width = tokens.shape
    count = grid // window
    windows = tokens.view(batch, count, window, count, window, width).permute(0, 1, 3, 2, 4, 5)
    return windows.reshape(-1, window, window, width)


def _unfold(windows: Tensor, window: int, grid: int) -> Tensor:
    """(B * windows, window, window, C) to (B, grid, grid, C)."""
    count, width = grid // window, windows.shape[-1]
    tokens = windows.view(-1, count, count, window, window, width).permute(0, 1, 3, 2, 4, 5)
    return tokens.reshape(-1, grid, grid, width)
