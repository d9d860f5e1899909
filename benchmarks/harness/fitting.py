"""Models whose masks follow objects: a random encoder of a published size, and a mask decoder fitted to photographs.

With weights that nobody trained a mask's edge is where noise crosses zero, and any rounding moves it. Here the prompt
encoder and the mask decoder learn what the built-in model answers to boxes, so that logits rise and fall as steeply as
a trained model's do. How good the masks are does not matter: they show what an engine's rounding changes of them.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.loops import masks_of
from harness.photographs import photograph
from harness.subjects import Subject, official, parts_of, predictor_of, published, save

FIRST = 5000  # Photographs from here on are learnt from; benchmarks ask about earlier ones.
PHOTOGRAPHS, BOXES = 32, 48
STEPS, PROMPTS, RATE = 1600, 8, 8e-4


@dataclass(frozen=True)
class Lesson:
    """A photograph with boxes.

    Attributes:
        image: (1, C, h, w) float32 of the encoder.
        finer: Its finer features, which SAM 2 has.
        boxes: (N, 4) float32 in the model's own pixels.
        masks: (N, 4h, 4w) float32, the share of each logit's pixels that is inside.
    """

    image: Any
    finer: list[Any]
    boxes: Any
    masks: Any


def fitted(name: str, runtime: dict[str, str] | None = None) -> Subject:
    """A published size with a fitted decoder, from benchmarks/out/cache or made now, which takes a quarter of an hour.

    Raises:
        KeyError: There is no such size.
    """
    subject = published(name, runtime)
    path = subject.checkpoint.with_name(f"{name}-fitted.pt")
    if not path.exists():
        _write(subject, path)
    return replace(subject, name=f"{name} with a fitted decoder", checkpoint=path)


def _write(subject: Subject, path: Path) -> None:
    import torch  # noqa: PLC0415 - it takes seconds

    torch.manual_seed(0)
    model = official(subject.family, subject.config or "", None)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = official(subject.family, subject.config or "", subject.checkpoint).state_dict()
    # The random decoder of `published` is tuned to have masks of normal sizes at once; fitting begins anew.
    model.load_state_dict({name: (random if name.startswith("image_encoder") else fresh)[name] for name in fresh})
    _, decoder = parts_of(subject.family, model)
    with torch.no_grad():
        # All masks learn the same; one is predicted to be better by more than any rounding changes.
        decoder.iou_prediction_head.layers[-1].bias += torch.linspace(0, 1, decoder.num_mask_tokens)
    lessons = []
    for index in range(FIRST, FIRST + PHOTOGRAPHS):
        lessons.append(_lesson(subject.family, model, index))
        print(f"\r{subject.name}: {len(lessons)} of {PHOTOGRAPHS} photographs", end="", file=sys.stderr, flush=True)
    _fit(subject.family, model, lessons)
    save(subject.family, model, path)


def _lesson(family: str, model: Any, index: int) -> Lesson:
    import torch  # noqa: PLC0415

    pixels = photograph(index)
    height, width = pixels.shape[:2]
    rng = np.random.default_rng(index)
    sides = rng.uniform(0.1, 0.6, (BOXES, 2))
    corners = rng.uniform(0, 1 - sides)
    boxes = np.round(np.concatenate([corners, corners + sides], axis=1) * [width, height, width, height])
    predictor = predictor_of(family, model)
    predictor.set_image(pixels)
    side = model.image_encoder.img_size if family == "sam" else model.image_size
    if family == "sam":  # Which keeps the proportions and pads below and to the right.
        scale = np.full(2, side / max(width, height))
        image, finer = predictor.features, []
    else:
        scale = np.array([side / width, side / height])
        image, finer = predictor._features["image_embed"], predictor._features["high_res_feats"]  # noqa: SLF001
    across = 4 * image.shape[3]  # Logits, of which the mask decoders make four by four of each place of the image.
    masks = np.zeros((BOXES, across, across), np.float32)
    columns, rows = (round(extent * across / side) for extent in (width, height) * scale)
    for mask, whole in zip(masks, _masks(pixels, boxes), strict=True):
        mask[:rows, :columns] = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    return Lesson(
        image.clone(),
        [each.clone() for each in finer],
        torch.from_numpy(boxes * np.tile(scale, 2)).float(),
        torch.from_numpy(masks),
    )


def _masks(pixels: NDArray[np.uint8], boxes: NDArray[np.float64]) -> list[NDArray[np.float32]]:
    """What the built-in model answers: (H, W) for each of (N, 4) boxes."""
    from cutout_server.models.builtin import load  # noqa: PLC0415
    from cutout_server.types import ModelFiles  # noqa: PLC0415

    return [patch.whole().astype(np.float32) for patch in masks_of(load(ModelFiles(None), "cpu"), pixels, [boxes])]


def _fit(family: str, model: Any, lessons: list[Lesson]) -> None:
    """By the server's own mask decoder, which takes a third of the official one's time."""
    import torch  # noqa: PLC0415
    from cutout_server.models.mask_decoder import MaskDecoder  # noqa: PLC0415

    prompts, decoder = parts_of(family, model)
    model.requires_grad_(requires_grad=False)
    learning = [*decoder.parameters(), *prompts.parameters()]
    for parameter in learning:
        parameter.requires_grad_(requires_grad=True)
    positions = prompts.get_dense_pe().detach()
    optimizer = torch.optim.Adam(learning, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    rng = np.random.default_rng(0)
    losses = []
    for step in range(1, STEPS + 1):
        lesson = lessons[rng.integers(len(lessons))]
        chosen = torch.from_numpy(rng.permutation(BOXES)[:PROMPTS])
        with torch.autocast("cpu", torch.bfloat16):
            sparse, dense = _encoded(family, prompts, lesson.boxes[chosen])
            decode = MaskDecoder(decoder, positions)  # Anew, as it holds some weights in another order.
            logits, _ = decode(lesson.image, sparse, dense[:1], lesson.finer, masks=slice(None))
        loss = _loss(logits.float(), lesson.masks[chosen, None].expand_as(logits))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        print(f"\r{step} of {STEPS} steps, loss {np.mean(losses[-50:]):.3f}   ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def _encoded(family: str, prompts: Any, boxes: Any) -> tuple[Any, Any]:
    """As the official predictors encode boxes."""
    import torch  # noqa: PLC0415

    if family == "sam":
        return prompts(points=None, boxes=boxes, masks=None)
    return prompts(points=(boxes.view(-1, 2, 2), torch.tensor([[2, 3]]).expand(len(boxes), -1)), boxes=None, masks=None)


def _loss(logits: Any, truth: Any) -> Any:
    """Cross entropy and dice (Milletari et al. 2016)."""
    from torch.nn import functional  # noqa: PLC0415

    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    inside = logits.sigmoid()
    both, either = (inside * truth).sum((2, 3)), inside.sum((2, 3)) + truth.sum((2, 3))
    return 5 * entropy + (1 - (2 * both + 1) / (either + 1)).mean()
