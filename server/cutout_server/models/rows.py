"""Rows of batches."""

import torch
from torch import Tensor


def own_rows(batch: Tensor) -> list[Tensor]:
    """(1, ...) each, with storage of its own, or one of them would keep the whole batch in memory."""
    return [row.clone(memory_format=torch.contiguous_format) for row in torch.split(batch, 1)]
