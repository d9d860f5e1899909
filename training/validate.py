"""How good masks are on photographs that are not trained on, crop by crop."""

import numpy as np
import torch
from clicks import add_click
from cutout_server.models.builtin.crops import Window, box_map, spot
from cutout_server.types import Box
from losses import chosen
from network import Network
from pictures import Object, Pictures
from prompts import inside

MOST = 160  # Objects.


def _crop(pictures: Pictures, one: Object, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Box]:
    box = Box(*one.box)
    window = Window.around(box)
    rgb, mask, known = pictures.crop(one, window, size)
    return rgb.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1, mask > 127, known > 127, window.seen(box, size)


@torch.no_grad()
def validate(network: Network, pictures: Pictures, size: int) -> str:
    """Mean IoU by box for each set, and by one and three clicks for all, as one line."""
    objects = pictures.of("val")
    objects = [objects[n] for n in np.random.default_rng(0).permutation(len(objects))[:MOST]]
    made = [_crop(pictures, one, size) for one in objects]
    sets = [pictures.pictures[one.picture]["set"] for one in objects]
    masks, known = np.stack([m[1] for m in made]), np.stack([m[2] for m in made])
    half, sure = masks[:, ::2, ::2], known[:, ::2, ::2]
    boxed, clicked = np.zeros((2, len(made), 7, size, size), np.float32)
    for n, (rgb, mask, _, box) in enumerate(made):
        boxed[n, :3] = clicked[n, :3] = rgb
        boxed[n, 3] = box_map(size, box)
        if mask.any():
            spot(clicked[n, 4], *inside(mask, None))
    found, ious = {}, []
    for name, crops in (("box", boxed), ("click", clicked)):
        for count in range(3):
            logits, quality = _run(network, crops)
            answers = logits[np.arange(len(made)), chosen(quality, np.full(len(made), name == "box" or count > 0))]
            ious = _ious(answers > 0, half, sure)
            found[f"{name}+{count}"] = round(float(ious.mean()), 3)
            if name == "box" and count == 0:
                found |= {s: round(float(ious[[s == t for t in sets]].mean()), 3) for s in sorted(set(sets))}
            for one, answer, mask, k in zip(crops, answers, half, sure, strict=True):
                one[6] = np.tanh(answer / 2).repeat(2, 0).repeat(2, 1)
                add_click(one, answer > 0, mask, k, None)
    return " ".join(f"{name} {value}" for name, value in found.items())


def _run(network: Network, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    device = next(network.parameters()).device
    answers = [network(torch.from_numpy(part).to(device)) for part in np.array_split(crops, -(-len(crops) // 32))]
    return tuple(torch.cat(one).float().cpu().numpy() for one in zip(*answers, strict=True))


def _ious(answers: np.ndarray, masks: np.ndarray, known: np.ndarray) -> np.ndarray:
    both = (answers & masks & known).sum((1, 2))
    either = ((answers | masks) & known).sum((1, 2))
    return both / np.maximum(either, 1)
