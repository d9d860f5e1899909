"""The documented way from words to masks: transformers, the demonstration's grammar, big_vision's decoder in numpy."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

_OBJECT = re.compile(
    r"(.*?)" + r"<loc(\d{4})>" * 4 + r"\s*(?:" + r"<seg(\d{3})>" * 16 + r")?\s*([^;<>]+)? ?(?:; )?"
)  # As the demonstration reads answers.


class Written(NamedTuple):
    """An object with a mask.

    Attributes:
        box: (y_min, x_min, y_max, x_max) in 1024ths.
        codes: Sixteen of them.
        offset: Where in the text the box begins.
    """

    box: tuple[int, ...]
    codes: tuple[int, ...]
    offset: int


def read(text: str) -> list[Written]:
    """The objects that have a mask and a box with an area, as the demonstration's `extract_objs` goes through them."""
    objects, done = [], 0
    while match := _OBJECT.match(text[done:]):
        numbers = match.groups()[1:-1]
        if numbers[4] is not None:
            y_min, x_min, y_max, x_max = box = tuple(map(int, numbers[:4]))
            if y_min < y_max and x_min < x_max:
                objects.append(Written(box, tuple(map(int, numbers[4:])), done + match.end(1)))
        done += match.end()
    return objects


def decode(checkpoint: dict[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    """`reconstruct_masks`: (N, 16) codes to (N, 64, 64), layer by layer as flax has them, channels last."""

    def conv(x: np.ndarray, name: str) -> np.ndarray:
        kernel = checkpoint[f"{name}.weight"].transpose(2, 3, 1, 0)  # height, width, in, out
        side, (_, height, width, _) = kernel.shape[0], x.shape
        padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
        windows = ((dy, dx, padded[:, dy : dy + height, dx : dx + width]) for dy in range(side) for dx in range(side))
        return sum(window @ kernel[dy, dx] for dy, dx, window in windows) + checkpoint[f"{name}.bias"]

    def conv_transpose(x: np.ndarray, name: str) -> np.ndarray:
        kernel = checkpoint[f"{name}.weight"].transpose(2, 3, 1, 0)  # height, width, out, in: transpose_kernel=True
        number, height, width, _ = x.shape
        spread = np.zeros((number, 2 * height + 2, 2 * width + 2, kernel.shape[2]), x.dtype)
        for dy in range(4):
            for dx in range(4):
                spread[:, dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] += x @ kernel[dy, dx].T
        return spread[:, 1:-1, 1:-1] + checkpoint[f"{name}.bias"]  # padding=2 of the 4 - 1 around the input

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    x = checkpoint["_vq_vae._embedding"].astype(np.float64)[codes.reshape(-1)].reshape(len(codes), 4, 4, -1)
    x = relu(conv(x, "decoder.0"))
    for block in ("decoder.2.net", "decoder.3.net"):
        x = x + conv(relu(conv(relu(conv(x, f"{block}.0")), f"{block}.2")), f"{block}.4")
    for layer in (4, 6, 8, 10):
        x = relu(conv_transpose(x, f"decoder.{layer}"))
    return conv(x, "decoder.12")[..., 0]


def paste(mask: np.ndarray, locations: tuple[int, ...], height: int, width: int) -> np.ndarray:
    """The box as the demonstration has it; in it big_vision's evaluator, which stretches the mask and cuts it at 0."""
    y1, x1, y2, x2 = (number / 1024 for number in locations)
    y1, x1, y2, x2 = map(round, (y1 * height, x1 * width, y2 * height, x2 * width))
    full = np.zeros((height, width), bool)
    if y2 > y1 and x2 > x1:
        resized = Image.fromarray(mask.astype(np.float32)).resize([x2 - x1, y2 - y1], resample=Image.BILINEAR)
        full[y1:y2, x1:x2] = np.asarray(resized) > 0.0
    return full


def paste_as_shown(mask: np.ndarray, locations: tuple[int, ...], height: int, width: int) -> np.ndarray:
    """The demonstration's own: in 256 steps, stretched bicubically, cut at one half."""
    y1, x1, y2, x2 = (number / 1024 for number in locations)
    y1, x1, y2, x2 = map(round, (y1 * height, x1 * width, y2 * height, x2 * width))
    full = np.zeros((height, width), bool)
    if y2 > y1 and x2 > x1:
        grey = Image.fromarray((np.clip(mask * 0.5 + 0.5, 0, 1) * 255).astype("uint8"))
        full[y1:y2, x1:x2] = np.array(grey.resize([x2 - x1, y2 - y1])) / 255.0 > 0.5
    return full


@dataclass(frozen=True)
class Expected:
    """An object by the reference: box relative to the picture, score, (64, 64) logits, (H, W) mask."""

    box: tuple[float, ...]
    score: float
    logits: np.ndarray
    mask: np.ndarray


Reference = Callable[[np.ndarray, str], list[Expected]]


def reference_of(folder: Path, mask_decoder: Path) -> Reference:
    """The documented way, one picture and one phrase at a time."""
    processor = PaliGemmaProcessor.from_pretrained(folder)
    model = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    with np.load(mask_decoder) as archive:
        checkpoint = dict(archive)

    def find(pixels: np.ndarray, phrase: str) -> list[Expected]:
        image = Image.fromarray(pixels)
        inputs = processor(text=f"<image>segment {phrase}", images=image, return_tensors="pt")
        with torch.inference_mode():
            written = model.generate(
                **inputs, max_new_tokens=512, do_sample=False, return_dict_in_generate=True, output_scores=True
            )
        tokens = written.sequences[0, inputs["input_ids"].shape[1] :]
        text = processor.decode(tokens, skip_special_tokens=True)
        pieces = [processor.decode([token]) for token in tokens]
        assert "".join(pieces).removesuffix("<eos>") == text
        starts = np.cumsum([0, *map(len, pieces)]).tolist()
        objects = []
        for box, codes, offset in read(text):
            places = range(starts.index(offset), starts.index(offset) + 4)
            probabilities = [written.scores[place][0].softmax(-1)[tokens[place]].item() for place in places]
            (logits,) = decode(checkpoint, np.array([codes]))
            relative = tuple(box[index] / 1024 for index in (1, 0, 3, 2))
            mask = paste(logits, box, *pixels.shape[:2])
            objects.append(Expected(relative, sum(probabilities) / 4, logits, mask))
        return objects

    return find
