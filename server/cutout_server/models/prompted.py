"""What the segmenters of the SAM line share: prompts decoded in company, and masks filtered where they are made."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from cutout_common.masks import rle_encode_part
from numpy.typing import NDArray
from torch import Tensor

from cutout_server.models.bilinear import Interpolation
from cutout_server.models.embedding import Embedding
from cutout_server.models.engines import Encoder
from cutout_server.models.exclusive import exclusive
from cutout_server.models.queries import Candidates, DecodeQuery, FilteredMask, FilteredMasks, MaskQuery, PointQuery
from cutout_server.models.upscale import Levels, upscaling
from cutout_server.types import Logits, MaskPatch, ObjectPrompt, RgbImage, Rle

Q = TypeVar("Q", DecodeQuery, MaskQuery, PointQuery)

_PROMPTS_PER_CALL = 64  # As the official automatic mask generators; bounds the decoder's memory.


class PromptedSegmenter(ABC):
    """A `Segmenter` and `GridSegmenter` by three steps that each family takes in its own way.

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
    def _interpolations(self, embedding: Embedding) -> tuple[Interpolation, ...]:
        """How logits come to the picture's size."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return sum(tensor.nbytes for tensor in (*self._model.parameters(), *self._model.buffers()))

    @property
    def _batches(self) -> bool:
        """Whether pictures are encoded together.

        A CPU gains nothing from a larger batch, and alone a picture's embedding cannot depend on its neighbours'.
        """
        return self._device.type != "cpu"

    @torch.inference_mode()
    def encode(self, images: Sequence[RgbImage]) -> list[Embedding]:
        """Encodes pictures of any sizes, (H, W, 3) uint8 RGB each."""
        size = max(1, len(images)) if self._batches else 1
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
                (index, Candidates(logits=masks.copy(), predicted_iou=scores.copy()))
                for index, masks, scores in zip(indices, logits, predicted_iou, strict=True)
            )
        return [answers[i] for i in range(len(queries))]

    @torch.inference_mode()
    def masks(self, queries: Sequence[MaskQuery]) -> list[MaskPatch]:
        """Brings logits to the picture's size, as far as they are inside."""
        answers: dict[int, MaskPatch] = {}
        for indices, alike in _chunks(queries, lambda each: (id(each.embedding), each.threshold, each.logits.shape)):
            logits = torch.from_numpy(np.stack([query.logits for query in alike])).to(self._device)
            answers.update(zip(indices, self._masks(logits, alike[0].embedding, alike[0].threshold), strict=True))
        return [answers[i] for i in range(len(queries))]

    @torch.inference_mode()
    def filtered_masks(self, queries: Sequence[PointQuery]) -> list[FilteredMasks]:
        """See `GridSegmenter.filtered_masks`; a few masks at a time are at full size, one of a very large picture.

        Raises:
            TypeError: An embedding is of another family.
        """
        answers: dict[int, FilteredMasks] = {}
        for indices, alike in _chunks(queries, lambda query: (id(query.embedding), query.mask_filter)):
            answers.update(zip(indices, self._filter_alike(alike), strict=True))
        return [answers[i] for i in range(len(queries))]

    @torch.inference_mode()
    def exclusive_masks(self, queries: Sequence[Sequence[MaskQuery]]) -> list[list[Rle]]:
        """See `Tracker.exclusive_masks`."""
        return [exclusive(map(self._full, group), [query.threshold for query in group]) for group in queries]

    def _full(self, query: MaskQuery) -> Logits:
        """(H, W) float32: the logits at the picture's size."""
        values = torch.from_numpy(query.logits)[None].to(self._device)
        for interpolation in self._interpolations(query.embedding):
            values = interpolation(values)
        full: Logits = values[0].cpu().numpy()
        return full

    def _masks(self, logits: Tensor, embedding: Embedding, threshold: float) -> list[MaskPatch]:
        """The masks of (N, h, w) float32 logits, on the device."""
        return [levels.patch(0) for levels in self._levels(logits, embedding, [threshold])]

    def _levels(self, logits: Tensor, embedding: Embedding, thresholds: Sequence[float]) -> Iterator[Levels]:
        height, width = logits.shape[-2:]
        return upscaling((height, width), self._interpolations(embedding)).levels(logits, thresholds)

    def _filter_alike(self, queries: Sequence[PointQuery]) -> list[FilteredMasks]:
        embedding, mask_filter = queries[0].embedding, queries[0].mask_filter
        inside = np.ones(1, np.int32)
        prompts = [ObjectPrompt(points=np.array([query.point], np.float32), labels=inside) for query in queries]
        logits, predicted_iou = self._answer([DecodeQuery(embedding, prompt, multimask=True) for prompt in prompts])
        candidates = logits.shape[1]
        logits, predicted_iou = logits.flatten(0, 1), predicted_iou.flatten()
        scores: list[float] = predicted_iou.tolist()
        passes = (predicted_iou > mask_filter.predicted_iou) | (mask_filter.predicted_iou <= 0)
        kept: list[list[FilteredMask]] = [[] for _ in queries]
        doubted: list[list[float]] = [[] for _ in queries]
        unstable: list[list[float]] = [[] for _ in queries]
        for index in (~passes).nonzero()[:, 0].tolist():
            doubted[index // candidates].append(scores[index])
        likely = passes.nonzero()[:, 0]
        middle, offset = mask_filter.mask_threshold, mask_filter.stability_offset
        measured = self._levels(logits[likely], embedding, [middle + offset, middle, middle - offset])
        for index, levels in zip(likely.tolist(), measured, strict=True):
            stability, number = _stability(levels), index // candidates
            if mask_filter.stability_score > 0 and not stability >= mask_filter.stability_score:
                unstable[number].append(stability.item())
                continue
            patch = levels.patch(1)
            low_res = logits[index].cpu().numpy().copy() if queries[number].with_logits else None
            rle = Rle(patch.height, patch.width, rle_encode_part(*patch.place, patch.inside))
            kept[number].append(FilteredMask(rle, scores[index], stability.item(), low_res))
        return [FilteredMasks(*each) for each in zip(kept, doubted, unstable, strict=True)]


class EngineSegmenter(PromptedSegmenter):
    """A segmenter whose encoder is in the hands of an engine.

    Args:
        model: In eval mode, on its device, without its encoder. Nothing of it changes afterwards.
        encoder: The encoder that was taken out of it.
    """

    def __init__(self, model: Any, encoder: Encoder) -> None:
        super().__init__(model)
        self._encoder = encoder

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return super().nbytes + self._encoder.nbytes

    @property
    def _batches(self) -> bool:
        return super()._batches and self._encoder.batches


def on_device(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The array as a tensor on a device; a GPU receives it while it is still at what it was given before."""
    # from_numpy warns about arrays that must not be written to, hence the copy.
    tensor = torch.from_numpy(np.array(pixels, order="C"))
    if device.type != "cuda":
        return tensor
    uploads, work = _uploads(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(uploads):
        arriving = tensor.pin_memory().to(device, non_blocking=True)
    work.wait_stream(uploads)
    arriving.record_stream(work)  # Or the next upload could be given its memory before it was read.
    return arriving


@cache
def _uploads(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU's copies, beside that of its work."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _stability(levels: Levels) -> Tensor:
    """IoU between the masks at the raised and the lowered threshold (Kirillov et al. 2023, section 5), float32."""
    small, _, large = torch.tensor(levels.areas())
    return torch.true_divide(small, large)


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
