"""What a good answer is."""

import numpy as np
import torch
from samples import Batch
from torch import Tensor
from torch.nn import functional

OTHERS_CLEAR, OTHERS_UNCLEAR = 0.15, 0.05  # Weight of the masks that are not chosen.


def loss_of(logits: Tensor, quality: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """The loss of (N, 3, h, w) logits and (N, 3) logits of the IoU; and the mean IoU of the masks that count.

    A clear prompt's mask is the first. An unclear one's is whichever comes nearest: three may all be right.
    """
    target, known = (torch.from_numpy(one).to(logits.device) for one in (batch.targets, batch.known))
    clear = torch.from_numpy(batch.clear).to(logits.device)
    target, known = target[:, None].expand_as(logits), known[:, None]
    pixels = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
    share = 0.5 * pixels.mean((2, 3)) / target.mean((2, 3)).clamp(0.05, 1) ** 0.5 + pixels.mean((2, 3))
    inside = torch.sigmoid(logits) * known
    both = (inside * target).sum((2, 3))
    either = (inside + target * known).sum((2, 3)) - both
    losses = share + 1 - (both + 1) / (either + 1)
    with torch.no_grad():
        ious = ious_of(logits, batch)
        chosen = torch.where(clear, 0, losses.argmin(1))
    weights = torch.where(clear, OTHERS_CLEAR, OTHERS_UNCLEAR)[:, None].expand_as(losses)
    weights = weights.scatter(1, chosen[:, None], 1.0)
    guess = functional.mse_loss(torch.sigmoid(quality), ious)
    counted = float(ious.gather(1, chosen[:, None]).mean())
    return (losses * weights).sum(1).mean() + 3.0 * guess, counted


def ious_of(logits: Tensor, batch: Batch) -> Tensor:
    """(N, 3) IoU of (N, 3, h, w) masks with the whole object, what lies beyond the crop included."""
    target, known, beyond = (
        torch.from_numpy(one).to(logits.device) for one in (batch.targets, batch.known, batch.beyond)
    )
    sure = known[:, None] > 0
    hard, true = (logits > 0) & sure, (target[:, None] > 0.5) & sure
    return (hard & true).sum((2, 3)) / ((hard | true).sum((2, 3)) + beyond[:, None]).clamp(min=1)


def chosen(quality: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """(N,) which of three masks is answered: the first when the prompt is clear, else the likeliest."""
    return np.where(clear, 0, quality.argmax(1))
