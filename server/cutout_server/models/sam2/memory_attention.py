"""Memory attention of SAM 2 on a CPU, for the objects of one frame, by fewer multiplications than the official one.

The weights are those of `sam2.modeling.memory_attention`, and so is the mathematics, in another order:

- What is remembered has 64 channels, of which each layer projects values of 256. The weights of a softmax sum to one,
  so that they may mix what is remembered instead; the projections of values and of answers, by then one, come after it.
- A pair of channels turned by an angle is the pair by its cosine, and the pair turned by a quarter by its sine: two
  products in the layout that the tokens have, where the reference goes through complex numbers.
- All objects begin with the frame, whose tokens look at themselves in the first layer once for all.
- Scores are made for some tokens at a time, so that they stay near the cores.
"""

import math
from typing import Any

import torch
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn

from cutout_server.models.onednn import linear

_TOKENS_AT_ONCE = 256


def suits(attention: Any) -> bool:
    """Whether a `MemoryAttention` has the form that all official architectures share."""
    layers = attention.layers
    turning = [each for layer in layers for each in (layer.self_attn, layer.cross_attn_image)]
    return all(
        isinstance(each, RoPEAttention)
        and each.num_heads == 1
        and each.compute_cis.keywords == turning[0].compute_cis.keywords
        for each in turning
    ) and all(
        layer.pos_enc_at_cross_attn_keys and not (layer.pos_enc_at_attn or layer.pos_enc_at_cross_attn_queries)
        for layer in layers
    )


class FrameMemoryAttention(nn.Module):
    """Answers as a `MemoryAttention` that `suits`, for objects that are followed into one frame.

    Args:
        attention: The official one, in eval mode, on the CPU.
        side: Of the grid of a frame's tokens.
        dtype: What the large products are computed in. Queries and keys are turned in float32, as the reference does it
            even under autocast, and what goes from layer to layer is float32.
    """

    def __init__(self, attention: Any, side: int, dtype: torch.dtype) -> None:
        super().__init__()
        angles = attention.layers[0].self_attn.compute_cis(end_x=side, end_y=side)
        turn = _Turn(angles.real.repeat_interleave(2, -1), angles.imag.repeat_interleave(2, -1))
        self._share = 0.1 if attention.pos_enc_at_input else 0.0
        self._layers = nn.ModuleList(_Layer(layer, turn, dtype) for layer in attention.layers)
        self._norm = attention.norm

    def forward(
        self,
        curr: list[Tensor],
        memory: Tensor,
        curr_pos: list[Tensor],
        memory_pos: Tensor,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """See `MemoryAttention.forward`.

        Args:
            curr: One (M, N, C) float32, the tokens of the frame, which are the same for each of N objects.
            memory: (L, N, D) float32.
            curr_pos: One (M, N, C) float32, likewise the same.
            memory_pos: (L, N, D) float32.
            num_obj_ptr_tokens: How many at the end of what is remembered lie nowhere in a frame.

        Returns:
            (M, N, C) float32.
        """
        first: Any = self._layers[0]
        begun = first.look_at_itself(curr[0][:, 0] + self._share * curr_pos[0][:, 0])
        placed = len(memory) - num_obj_ptr_tokens
        each = zip(memory.unbind(1), (memory + memory_pos).unbind(1), strict=True)
        return torch.stack([self._follow(begun, remembered, keys, placed) for remembered, keys in each], 1)

    def _follow(self, tokens: Tensor, memory: Tensor, keys: Tensor, placed: int) -> Tensor:
        """One object, from where the first layer has looked at the frame itself."""
        layer: Any
        for number, layer in enumerate(self._layers):
            looked = layer.look_at_itself(tokens) if number else tokens
            tokens = layer.look_back(looked, memory, keys, placed)
        answer: Tensor = self._norm(tokens)
        return answer


class _Layer(nn.Module):
    """A `MemoryAttentionLayer` on the tokens of one object, (M, C) float32."""

    def __init__(self, layer: Any, turn: "_Turn", dtype: torch.dtype) -> None:
        super().__init__()
        self._norms = nn.ModuleList([layer.norm1, layer.norm2, layer.norm3])
        self._itself = _Attention(layer.self_attn, turn, dtype)
        self._back = _Attention(layer.cross_attn_image, turn, dtype)
        self._wide, self._narrow = (Linear(each.weight, each.bias, dtype) for each in (layer.linear1, layer.linear2))
        self._activation = layer.activation

    def look_at_itself(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self._norms[0](tokens)
        looked: Tensor = tokens + self._itself(normed, normed, normed, len(normed))
        return looked

    def look_back(self, tokens: Tensor, memory: Tensor, keys: Tensor, placed: int) -> Tensor:
        tokens = tokens + self._back(self._norms[1](tokens), keys, memory, placed)
        after: Tensor = tokens + self._narrow(self._activation(self._wide(self._norms[2](tokens))))
        return after


class _Attention(nn.Module):
    """A `RoPEAttention` with one head."""

    def __init__(self, attention: Any, turn: "_Turn", dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._query = _Turned(attention.q_proj, turn, 1 / math.sqrt(attention.internal_dim))
        self._key = _Turned(attention.k_proj, turn)
        value, out = attention.v_proj, attention.out_proj
        self._out = Linear(out.weight @ value.weight, out.weight @ value.bias + out.bias, dtype)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, placed: int) -> Tensor:
        """(M, C) float32 of (M, C), (L, D) and (L, D); the first `placed` keys lie in the grid."""
        turned = self._query(query, len(query)), self._key(key, placed)
        queries, keys, values = (each.to(self._dtype) for each in (*turned, value))
        mixed = [linear(linear(part, keys).softmax(-1), values.T) for part in queries.split(_TOKENS_AT_ONCE)]
        answer: Tensor = self._out(torch.cat(mixed))
        return answer.float()


class _Turned(nn.Module):
    """A projection, times a factor, of which each pair of channels is turned by the angle of the token's place."""

    def __init__(self, projection: Any, turn: "_Turn", factor: float = 1.0) -> None:
        super().__init__()
        weight, bias = projection.weight * factor, projection.bias * factor
        self._straight = Linear(weight, bias, torch.float32)
        self._quarter = Linear(_quarter_turn(weight), _quarter_turn(bias), torch.float32)
        self._turn = turn

    def forward(self, tokens: Tensor, placed: int) -> Tensor:
        """(L, D) to (L, C) float32; the first `placed` tokens are those of one or several grids."""
        projected: Tensor = self._straight(tokens)
        self._turn(projected[:placed], self._quarter(tokens[:placed]))
        return projected


class _Turn(nn.Module):
    """By the angle of each of the M tokens of a grid, cosine and sine of which are (M, C) float32."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, cosine: Tensor, sine: Tensor) -> None:
        super().__init__()
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)

    def forward(self, tokens: Tensor, quarter: Tensor) -> None:
        """In place, given the same tokens turned by a quarter."""
        straight, across = (each.view(-1, *self.cosine.shape) for each in (tokens, quarter))
        straight.mul_(self.cosine).addcmul_(across, self.sine)


class Linear(nn.Module):
    """A `torch.nn.Linear` that computes in one dtype whatever it is given."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype))
        self.register_buffer("bias", bias.detach().to(dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., K) float to (..., M) of its own dtype."""
        return linear(tokens.to(self.weight.dtype), self.weight, self.bias)


def _quarter_turn(rows: Tensor) -> Tensor:
    """(C, ...), of which each pair (x, y) becomes (-y, x)."""
    return torch.stack([-rows[1::2], rows[::2]], 1).flatten(0, 1)
