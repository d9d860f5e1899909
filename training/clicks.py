"""The next click: where the last mask was most wrong, as a caller would put it."""

import numpy as np
from cutout_server.models.builtin.crops import spot
from losses import chosen
from numpy.random import Generator
from prompts import inside, mistake
from samples import Batch

Carried = tuple[Batch, np.ndarray, np.ndarray]
NO_CLICK = 0.15  # How often the mask comes back as it was, to be made better without one.


def continued(
    batch: Batch, carried: Carried | None, count: int, random: Generator, no_click: float = NO_CLICK
) -> Batch:
    """A batch, and after it `count` crops of the batch before, with their masks and one click more."""
    if carried is None:
        return batch
    before, logits, quality = carried
    picked = random.choice(len(before.crops), min(count, len(before.crops)), replace=False)
    answers = logits[picked, chosen(quality[picked], before.clear[picked])]
    crops, clear = before.crops[picked].copy(), before.clear[picked].copy()
    for one, answer, target, known, of in zip(
        crops, answers, before.targets[picked], before.known[picked], range(len(picked)), strict=True
    ):
        one[6] = np.tanh(answer / 2).repeat(2, 0).repeat(2, 1)
        if random.random() < no_click:
            continue
        clear[of] = True
        add_click(one, answer > 0, target > 0.5, known > 0, random)
    parts = zip(
        (batch.crops, batch.targets, batch.known, batch.beyond, batch.clear),
        (crops, before.targets[picked], before.known[picked], before.beyond[picked], clear),
        strict=True,
    )
    return Batch(*(np.concatenate(pair) for pair in parts))


def add_click(
    crop: np.ndarray, answer: np.ndarray, target: np.ndarray, known: np.ndarray, random: Generator | None
) -> None:
    """Marks on a (7, S, S) crop where an (S/2, S/2) answer is most wrong."""
    wrong = mistake((answer != target) & known)
    if wrong is None:
        return
    x, y = inside(wrong, random)
    missed = target[int(y), int(x)]
    spot(crop[4 if missed else 5], 2 * x, 2 * y)
