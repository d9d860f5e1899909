"""The image encoder of SAM 1 and SAM-HQ with the same mathematics and less work (https://arxiv.org/abs/2304.02643).

What the official modules do at every pass is done once or not at all: the relative positions are gathered when the
module is built and join the attention as its additive mask, the padding of windows never goes through a Linear, and
tokens move into windows and back by one gather each.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Vit(nn.Module):
    """Pictures to features; every weight is the given modules' own.

    Args:
        patches: Convolution of the picture into (B, D, side, side) tokens.
        position: (1, side, side, D), or None.
        blocks: In order.
        neck: (B, side, side, D) tokens to (B, C, side, side) features.
        side: Of the grid of tokens.
        early: Whether the tokens after the first block that looks at the whole picture are wanted too.
    """

    def __init__(
        self,
        patches: nn.Conv2d,
        position: nn.Parameter | None,
        blocks: "Iterable[Block]",
        neck: nn.Module,
        *,
        side: int,
        early: bool = False,
    ) -> None:
        super().__init__()
        self.patches, self.side = patches, side
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.neck = neck
        self._early = next(i for i, block in enumerate(self.blocks) if not block.windowed) if early else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Encodes pictures.

        Args:
            pixels: (B, 3, 16 * side, 16 * side), normalised.

        Returns:
            (B, C, side, side) features and, where they are wanted, (B, side, side, D) early tokens.
        """
        tokens: Tensor = self.patches(pixels).flatten(2).transpose(1, 2)
        if self.position is not None:
            tokens = tokens + self.position.flatten(1, 2)
        kept: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index == self._early:
                kept.append(self._grid(tokens))
        return self.neck(self._grid(tokens)), *kept

    def _grid(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(tokens.shape[0], self.side, self.side, tokens.shape[2])


class Block(nn.Module):
    """A transformer block over (B, side * side, D) tokens in the picture's order.

    Args:
        norms: Before the attention and before the MLP.
        attention: With `qkv`, `proj` and, for relative positions, `rel_pos_h` and `rel_pos_w`.
        mlp: Of a token.
        heads: Of the attention.
        side: Of the grid of tokens.
        window: Side of the windows that the attention looks at; 0 for the whole picture.
    """

    rel_pos_h: Tensor | None
    rel_pos_w: Tensor | None
    there: Tensor
    back: Tensor

    def __init__(
        self, norms: tuple[nn.Module, nn.Module], attention: Any, mlp: nn.Module, *, heads: int, side: int, window: int
    ) -> None:
        super().__init__()
        self.norm, self.second_norm = norms
        self.qkv, self.proj, self.mlp = attention.qkv, attention.proj, mlp
        self.heads, self.extent = heads, window or side
        self.windowed = window > 0
        for name in ("rel_pos_h", "rel_pos_w"):
            positions = getattr(attention, name, None)
            self.register_buffer(name, None if positions is None else _gathered(positions, self.extent), False)
        there, back = _windows(side, window) if self.windowed else (None, None)
        self.register_buffer("there", there, persistent=False)
        self.register_buffer("back", back, persistent=False)

    def extra_repr(self) -> str:
        """What the shapes of the weights do not tell of the form, for exports to be told apart by."""
        return f"heads={self.heads}, extent={self.extent}, windowed={self.windowed}"

    def forward(self, tokens: Tensor) -> Tensor:
        """One pass, (B, side * side, D) to the same."""
        tokens = tokens + self.proj(self._attend(self.norm(tokens)))
        answer: Tensor = tokens + self.mlp(self.second_norm(tokens))
        return answer

    def _attend(self, tokens: Tensor) -> Tensor:
        if self.windowed:
            tokens = functional.pad(tokens, (0, 0, 0, 1))  # The token that pads windows: zero before the Linears.
        weights, biases = self.qkv.weight.chunk(3), (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        # Three Linears, as OpenVINO's Split of one is slow.
        query, key, value = (
            self._split(functional.linear(tokens, weight, bias)) for weight, bias in zip(weights, biases, strict=True)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=self._positions(query))
        attended = attended.transpose(1, 2).flatten(2)
        if not self.windowed:
            return attended
        return attended.reshape(tokens.shape[0], -1, tokens.shape[2])[:, self.back]

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, L, D) tokens to (B * windows, heads, extent * extent, D / heads)."""
        if self.windowed:
            tokens = tokens[:, self.there]
        return tokens.reshape(-1, self.extent**2, self.heads, tokens.shape[2] // self.heads).transpose(1, 2)

    def _positions(self, query: Tensor) -> Tensor | None:
        """(N, heads, L, L) of Li et al. 2021 (https://arxiv.org/abs/2112.01526), equation 5: rows plus columns."""
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        grid = query.reshape(-1, self.heads, self.extent, self.extent, query.shape[3])
        rows = grid @ self.rel_pos_h.transpose(1, 2)
        columns = (grid.transpose(2, 3) @ self.rel_pos_w.transpose(1, 2)).transpose(2, 3)
        return (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)


def of_sam(encoder: Any) -> Vit:
    """The same encoder as this `segment_anything.modeling.ImageEncoderViT`, sharing its parameters."""
    side = encoder.img_size // encoder.patch_embed.proj.kernel_size[0]
    blocks = [
        Block(
            (block.norm1, block.norm2),
            block.attn,
            block.mlp,
            heads=block.attn.num_heads,
            side=side,
            window=block.window_size,
        )
        for block in encoder.blocks
    ]
    neck = nn.Sequential(_ChannelsFirst(), *encoder.neck)
    return Vit(encoder.patch_embed.proj, encoder.pos_embed, blocks, neck, side=side).eval()


def of_sam_hq(encoder: Any) -> Vit:
    """The same encoder as this `transformers` SamHQVisionEncoder, sharing its parameters; gives early tokens too."""
    side = encoder.config.image_size // encoder.config.patch_size
    blocks = [
        Block(
            (layer.layer_norm1, layer.layer_norm2),
            layer.attn,
            layer.mlp,
            heads=layer.attn.num_attention_heads,
            side=side,
            window=layer.window_size,
        )
        for layer in encoder.layers
    ]
    return Vit(encoder.patch_embed.projection, encoder.pos_embed, blocks, encoder.neck, side=side, early=True).eval()


class _ChannelsFirst(nn.Module):
    def forward(self, grid: Tensor) -> Tensor:
        return grid.permute(0, 3, 1, 2)


def _gathered(positions: Tensor, extent: int) -> Tensor:
    """(extent of queries, extent of keys, D) from the table of distances, (2 * extent - 1, D)."""
    places = torch.arange(extent, device=positions.device)
    return positions.detach()[places[:, None] - places + extent - 1]


def _windows(side: int, window: int) -> tuple[Tensor, Tensor]:
    """Which token of the picture each place of the windows takes, and which place each token is found at again.

    Windows at the right and lower border go beyond the picture; there they take token side * side, the padding.
    """
    across = -(-side // window)
    padded = across * window
    grid = torch.full((padded, padded), side**2)
    grid[:side, :side] = torch.arange(side**2).view(side, side)
    there = grid.view(across, window, across, window).transpose(1, 2).flatten()
    places = torch.empty(side**2 + 1, dtype=torch.long)
    places[there] = torch.arange(len(there))
    return there, places[:-1]
