"""Layers that the parts of Grounding DINO share."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cutout_server.models import onednn

_WIDE = 4 * 2**20  # Elements between the layers of a perceptron at once: blocks that malloc keeps.


def linear(values: Tensor, layer: Any, bias: Tensor | None = None) -> Tensor:
    """A Linear, or a weight and a bias, in the dtype of its weight."""
    weight = layer if isinstance(layer, Tensor) else layer.weight
    if bias is None and not isinstance(layer, Tensor):
        bias = layer.bias
    return onednn.linear(values.to(weight.dtype), weight, bias)


def perceptron(values: Tensor, layers: tuple[nn.Linear, nn.Linear], activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Two Linears, a part of the rows at a time.

    Args:
        values: (..., C).
        layers: The wide one and the one that answers.
        activation: Between them.

    Returns:
        (..., C) in the layers' dtype.
    """
    wide, narrow = layers
    rows = values.flatten(0, -2)
    if values.device.type != "cpu":
        return linear(activation(linear(values, wide)), narrow)
    answer = rows.new_empty(len(rows), narrow.out_features, dtype=narrow.weight.dtype)
    step = max(1, _WIDE // wide.out_features)
    for part, target in zip(torch.split(rows, step), torch.split(answer, step), strict=True):
        target.copy_(linear(activation(linear(part, wide)), narrow))
    return answer.view(*values.shape[:-1], -1)


def joined(layers: Iterable[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Linears of the same input as one, (weight, bias); they go on as views of it, so nothing is held twice."""
    layers = list(layers)
    sizes = [layer.out_features for layer in layers]
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    for layer, part in zip(layers, torch.split(weight, sizes), strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    if bias is not None:
        for layer, part in zip(layers, torch.split(bias, sizes), strict=True):
            layer.bias = nn.Parameter(part, requires_grad=False)
    return weight, bias


def attend(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """A GroundingDinoMultiheadAttention.

    Args:
        attention: With query, key, value and out_proj.
        queries: (N, Q, C).
        keys: (N, K, C).
        values: (N, K, C).
        mask: (N, 1, 1, K) bool, true where a key may be attended to; None for all.

    Returns:
        (N, Q, C).
    """
    q, k, v = (
        torch.unflatten(linear(each, layer), -1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for each, layer in ((queries, attention.query), (keys, attention.key), (values, attention.value))
    )
    answer = functional.scaled_dot_product_attention(q, k, v, mask)
    return linear(answer.transpose(1, 2).flatten(2), attention.out_proj)
