"""Random weights for models in their published sizes."""

from collections.abc import Callable

import torch
from torch import nn
from transformers.initialization import no_init_weights


@torch.no_grad()
def scattered(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model with random weights at once: a block of numbers over and over, as drawing billions takes a minute."""
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = make().eval().requires_grad_(requires_grad=False)
    finally:
        torch.set_default_dtype(torch.float32)
    scatter(model)
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm) and layer.weight is not None:
            layer.weight.fill_(1)
    return model


@torch.no_grad()
def scatter(model: nn.Module) -> None:
    """Gives every parameter such weights."""
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(1)).mul_(0.02)
    for index, parameter in enumerate(model.parameters()):
        shifted = block.roll(7919 * index).to(parameter.dtype)  # So that the layers differ.
        for part in parameter.view(-1).split(len(block)):
            part.copy_(shifted[: len(part)])
