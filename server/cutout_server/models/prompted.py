"""What the segmenters of the SAM line share: prompts decoded in company, and masks sifted where they are made."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from cutout_common.masks import rle_encode
from torch import Tensor

from cutout_server.models.base import Candidates, DecodeQuery, Embedding, MaskQuery, Sifted, SiftQuery
from cutout_server.types import BoolMask, ObjectPrompt, RgbImage, Rle

Q = TypeVar("Q", DecodeQuery, SiftQuery)

_PROMPTS_PER_CALL = 64  # As the official automatic mask generators; bounds the decoder's memory.
_PIXELS_AT_ONCE = 1 << 23  # Of logits at full size, float32.


class PromptedSegmenter(ABC):
    """A `Segmenter` and `Sifter` by three steps that each family takes in its own way.

    Args:
        model: In eval mode, on its device. Nothing of it changes afterwards.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device: torch.device = model.device

    @abstractmethod
    def _embed(self, images: Sequence[RgbImage]) -> Sequence[Embedding]:
        """Encodes pictures of any sizes in one batch; each embedding has storage of its own."""

    @abstractmethod
    def _answer(self, queries: Sequence[DecodeQuery]) -> tuple[Tensor, Tensor]:
        """Decodes 1 to 64 prompts of one form on one embedding.

        Returns:
            (N, C, h, w) float32 logits and (N, C) float32 predicted IoU, on the device.
        """

    @abstractmethod
    def _upscale(self, logits: Tensor, embedding: Embedding) -> Tensor:
        """Brings (N, h, w) float32 logits to the picture's size, (N, H, W), on the device."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return sum(tensor.nbytes for tensor in (*self._model.parameters(), *self._model.buffers()))

    @torch.inference_mode()
    def encode(self, images: Sequence[RgbImage]) -> list[Embedding]:
        """Encodes pictures of any sizes, (H, W, 3) uint8 RGB each."""
        # A CPU gains nothing from a larger batch, and alone a picture's embedding cannot depend on its neighbours'.
        size = 1 if self._device.type == "cpu" else max(1, len(images))
        return [each for start in range(0, len(images), size) for each in self._embed(images[start : start + size])]

    @torch.inference_mode()
    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """Decodes prompts; those of one form on one embedding share a call of the decoder, 64 at most.

        Raises:
            ValueError: A prompt is empty.
            TypeError: An embedding is of another family.
        """
        answers: dict[int, Candidates] = {}
        for indices, alike in _chunks(queries, _form):
            logits, predicted_iou = (tensor.cpu().numpy() for tensor in self._answer(alike))
            # Copies, or the candidates of one object would keep those of all others in memory.
            answers.update(
                (index, Candidates(logits=each.copy(), predicted_iou=scores.copy()))
                for index, each, scores in zip(indices, logits, predicted_iou, strict=True)
            )
        return [answers[i] for i in range(len(queries))]

    @torch.inference_mode()
    def masks(self, queries: Sequence[MaskQuery]) -> list[BoolMask]:
        """Brings logits to the picture's size, (H, W) bool each; float32 of one picture at a time in memory."""
        return [self._mask(query) for query in queries]

    @torch.inference_mode()
    def sift(self, queries: Sequence[SiftQuery]) -> list[list[Sifted]]:
        """See `Sifter.sift`; a few masks at a time are at full size, one of a very large picture.

        Raises:
            TypeError: An embedding is of another family.
        """
        answers: dict[int, list[Sifted]] = {}
        for indices, alike in _chunks(queries, lambda query: (id(query.embedding), query.sieve)):
            answers.update(zip(indices, self._sift_alike(alike), strict=True))
        return [answers[i] for i in range(len(queries))]

    def _mask(self, query: MaskQuery) -> BoolMask:
        logits = torch.tensor(query.logits, device=self._device)[None]
        mask: BoolMask = (self._upscale(logits, query.embedding)[0] > query.threshold).cpu().numpy()
        return mask

    def _sift_alike(self, queries: Sequence[SiftQuery]) -> list[list[Sifted]]:
        embedding, sieve = queries[0].embedding, queries[0].sieve
        inside = np.ones(1, np.int32)
        prompts = [ObjectPrompt(points=np.array([query.point], np.float32), labels=inside) for query in queries]
        logits, predicted_iou = self._answer([DecodeQuery(embedding, prompt, multimask=True) for prompt in prompts])
        candidates = logits.shape[1]
        logits, predicted_iou = logits.flatten(0, 1), predicted_iou.flatten()
        likely = torch.arange(len(logits), device=self._device)
        if sieve.predicted_iou > 0:
            likely = likely[predicted_iou > sieve.predicted_iou]
        kept: list[list[Sifted]] = [[] for _ in queries]
        height, width = embedding.image_size
        for part in torch.split(likely, max(1, _PIXELS_AT_ONCE // (height * width))):
            upscaled = self._upscale(logits[part], embedding)
            stability = _stability(upscaled, sieve.mask_threshold, sieve.stability_offset)
            if sieve.stability_score > 0:
                stable = stability >= sieve.stability_score
                part, upscaled, stability = part[stable], upscaled[stable], stability[stable]  # noqa: PLW2901
            masks = (upscaled > sieve.mask_threshold).cpu().numpy()
            scores = predicted_iou[part].tolist()
            for index, mask, score, stable_by in zip(part.tolist(), masks, scores, stability.tolist(), strict=True):
                query = queries[index // candidates]
                low_res = logits[index].cpu().numpy().copy() if query.with_logits else None
                rle = Rle(height, width, rle_encode(mask))
                kept[index // candidates].append(Sifted(rle, score, stable_by, low_res))
        return kept


def _stability(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """(N,) IoU between the masks at thresholds raised and lowered by `offset` (Kirillov et al. 2023, section 5)."""
    return (logits > threshold + offset).sum((1, 2)) / (logits > threshold - offset).sum((1, 2))


def _chunks(queries: Sequence[Q], key: Callable[[Q], Hashable]) -> Iterator[tuple[list[int], list[Q]]]:
    """Indices and queries of one key, 64 at most."""
    alike: dict[Any, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        alike[key(query)].append(index)
    for indices in alike.values():
        for start in range(0, len(indices), _PROMPTS_PER_CALL):
            chunk = indices[start : start + _PROMPTS_PER_CALL]
            yield chunk, [queries[i] for i in chunk]


def _form(query: DecodeQuery) -> tuple[int, int, bool, bool, bool]:
    """What prompts must have in common to be decoded together.

    Padding would not do: the decoder attends to a padding point as to any other.
    """
    prompt = query.prompt
    form = (len(prompt.points), prompt.box is not None, prompt.logits is not None)
    if not any(form):
        raise ValueError("a prompt needs points, a box or logits")
    return (id(query.embedding), *form, query.multimask)
