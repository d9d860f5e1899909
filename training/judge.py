"""Trains on only the part that tells how good masks are; see README.md.

    python training/judge.py --pictures build/pocket/pictures --weights build/pocket/finished.pt --out build/judged.pt

Masks stay as they are. That part learns fast, and from what the finished network answers instead of from what it
answered on the way there; half of the crops around clicks are those in which the server searches.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from clicks import continued
from export import load
from losses import ious_of
from pictures import Pictures
from samples import Samples
from torch.nn import functional

FRESH, CARRIED = 48, 24
NO_CLICK = 0.5  # How often a mask comes back as it was: the server looks at each once more.
RATE = 1e-3
TELL = 25  # Steps.


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="what prepare.py wrote, without the suffix")
    parser.add_argument("--weights", type=Path, required=True, help="what train.py --decay wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=128, help="of the crops, in pixels")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    cv2.setNumThreads(0)
    network = load(arguments.weights)
    samples = Samples(Pictures(arguments.pictures), "train", arguments.seed)
    optimizer = torch.optim.AdamW(network.quality.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)
    seen: list[torch.Tensor] = []
    network.quality.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    carried, losses = None, []
    for step in range(arguments.steps):
        random = np.random.default_rng([arguments.seed, step, 1])
        batch = continued(samples.batch(step, FRESH, arguments.size), carried, CARRIED, random, NO_CLICK)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits, quality = network(torch.from_numpy(batch.crops))
        carried = batch, logits.float().numpy(), quality.float().numpy()
        guess = torch.sigmoid(network.quality(seen[0].float()))
        seen.clear()
        loss = functional.mse_loss(guess, ious_of(logits.float(), batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % TELL == TELL - 1:
            print(f"step {step + 1} error {np.mean(losses) ** 0.5:.4f}", flush=True)
            losses = []
    torch.save({"mean": network.state_dict()}, arguments.out)


if __name__ == "__main__":
    main()
