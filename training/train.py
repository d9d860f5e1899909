"""Trains the network; see README.md.

    python training/train.py --pictures build/pocket/pictures --out build/pocket          # until it is stopped
    python training/train.py --pictures build/pocket/pictures --out build/pocket --decay 1000   # the end of it

The rate of learning is held until --decay, which carries on from the last checkpoint and brings it to nothing: nobody
has to know beforehand how long training lasts. Decay leaves the checkpoint alone, so that it can be trained further.
"""

import argparse
import copy
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from clicks import Carried, continued
from losses import loss_of
from network import Network
from pictures import Pictures
from samples import Batch, Samples
from validate import validate
from weights import of_onnx, restore

FRESH, CARRIED = 32, 16  # Crops of a batch: new ones, and ones of the batch before with one click more.
RATE, WARM_UP, DECAY_OF_WEIGHTS = 2e-3, 300, 0.03
KEPT = 0.998  # Of the mean weights, each step.
SAVE, LOOK = 100, 500  # Steps.
MEASURED = 128  # Crops by which the norms of weights that were exported are restored.
AHEAD = 3  # Batches that are made while the network learns.


def rate(highest: float, step: int, start: int | None, steps: int) -> float:
    """The rate of learning: up, level, and from `start` down within `steps`."""
    level = highest * min(1.0, (step + 1) / WARM_UP)
    return level if start is None else level * max(1 - (step - start) / steps, 0.0)


class Training:
    """The network, its optimiser, and its mean over time, which is what is served."""

    def __init__(self, out: Path, device: str) -> None:
        self.network = Network().to(device, memory_format=torch.channels_last)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": DECAY_OF_WEIGHTS}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, RATE, fused=True)
        self.mean = copy.deepcopy(self.network).eval()
        self.step, self.device, self._path = 0, device, out / "checkpoint.pt"

    def begin(self, network: Network) -> None:
        """With the weights of another network."""
        for own in (self.network, self.mean):
            own.load_state_dict(network.state_dict())

    def resume(self) -> bool:
        """From the last checkpoint, where there is one; tells whether there is."""
        if found := self._path.exists():
            saved = torch.load(self._path, map_location=self.device, weights_only=True)
            self.network.load_state_dict(saved["network"])
            self.mean.load_state_dict(saved["mean"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = saved["step"]
        return found

    def save(self, path: Path | None = None) -> None:
        """All of it, whole or not at all."""
        path = path or self._path
        parts = {"network": self.network, "mean": self.mean, "optimizer": self.optimizer}
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": self.step}, f"{path}.part")
        Path(f"{path}.part").replace(path)

    @torch.no_grad()
    def average(self) -> None:
        """Moves the mean weights towards the present ones, faster at first."""
        kept = min(KEPT, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._floats(self.mean), self._floats(self.network), 1 - kept)

    @staticmethod
    def _floats(network: Network) -> list[torch.Tensor]:
        """The weights and the statistics of the norms."""
        return [tensor for tensor in (*network.parameters(), *network.buffers()) if tensor.dtype.is_floating_point]


class Run:
    """One run of the program: batches in, weights and lines of progress out."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._out, self._size, self._seed = arguments.out, arguments.size, arguments.seed
        self._pictures = Pictures(arguments.pictures)
        self._samples = Samples(self._pictures, "train", arguments.seed)
        self._training = Training(arguments.out, arguments.device)
        if not self._training.resume() and arguments.weights:
            served = of_onnx(arguments.weights)
            restore(served, torch.from_numpy(self._samples.batch(0, MEASURED, self._size).crops))
            self._training.begin(served)
        self._rate = arguments.rate
        self._decay, self._first = arguments.decay, self._training.step
        self._end = time.monotonic() + 60 * arguments.minutes
        self._stopped = False
        self._losses: list[tuple[float, float]] = []

    def stop(self, *_: object) -> None:
        """After the step under way; a signal's handler."""
        self._stopped = True

    def go(self) -> None:
        """Trains until it is told to stop, time is up, or the rate has come to nothing."""
        training, start = self._training, time.monotonic()
        last = self._first + self._decay if self._decay else None
        carried = None
        with ThreadPoolExecutor(1) as maker:
            waiting = [maker.submit(self._samples.batch, self._first + n, FRESH, self._size) for n in range(AHEAD)]
            while training.step != last and not self._stopped and time.monotonic() < self._end:
                fresh = waiting.pop(0).result()
                waiting.append(maker.submit(self._samples.batch, training.step + AHEAD, FRESH, self._size))
                random = np.random.default_rng([self._seed, training.step, 1])
                carried = self._step(continued(fresh, carried, CARRIED, random))
                if training.step % SAVE == 0:
                    self._report(start)
                if training.step % LOOK == 0 or training.step == last:
                    print(f"step {training.step}", validate(training.mean, self._pictures, self._size), flush=True)
        if self._losses:
            self._report(start)
        if training.step == last:
            # The rate has come to nothing, so that the weights are as calm as their mean, and newer.
            training.mean.load_state_dict(training.network.state_dict())
            training.save(self._out / "finished.pt")

    def _step(self, batch: Batch) -> Carried:
        training = self._training
        for group in training.optimizer.param_groups:
            group["lr"] = rate(self._rate, training.step, self._first if self._decay else None, self._decay)
        crops = torch.from_numpy(batch.crops).to(training.device, memory_format=torch.channels_last)
        with torch.autocast(crops.device.type, torch.bfloat16):
            logits, quality = training.network(crops)
        loss, iou = loss_of(logits.float(), quality.float(), batch)
        training.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.network.parameters(), 1.0)
        training.optimizer.step()
        training.step += 1
        training.average()
        self._losses.append((loss.item(), iou))
        return batch, logits.detach().float().cpu().numpy(), quality.detach().float().cpu().numpy()

    def _report(self, start: float) -> None:
        if not self._decay:
            self._training.save()
        pace = (self._training.step - self._first) / (time.monotonic() - start)
        loss, iou = np.mean(self._losses, 0)
        self._losses = []
        print(f"step {self._training.step} loss {loss:.4f} iou {iou:.4f} {pace:.2f} steps/s", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="what prepare.py wrote, without the suffix")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="of the crops, in pixels")
    parser.add_argument("--weights", type=Path, help="what export.py wrote: begin with these if there is no checkpoint")
    parser.add_argument("--rate", type=float, default=RATE, help="of learning, at its highest")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--decay", type=int, default=0, help="end training within so many steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    cv2.setNumThreads(0)  # Pictures are cut beside the network's own threads.
    run = Run(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, run.stop)
    run.go()


if __name__ == "__main__":
    main()
