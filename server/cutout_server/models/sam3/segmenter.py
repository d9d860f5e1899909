"""Both halves as one model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cutout_server.models.base import Embedding, TextFind, TextQuery
from cutout_server.models.sam2_like import Sam2Like
from cutout_server.models.sam3.concepts import ConceptFrame, Concepts
from cutout_server.models.stretches import Stretch
from cutout_server.types import MaskPatch


class Sam3(Sam2Like):
    """A `TextSegmenter` by the detector, and a `Segmenter` and `Sifter` by the tracker.

    It answers as `Sam3Model` does with `Sam3Processor` and `post_process_instance_segmentation`, and as
    `Sam3TrackerModel` does with `Sam3TrackerProcessor` and `post_process_masks`.

    Args:
        detector: In eval mode, on its device, as is the tracker. Nothing of them changes afterwards.
        tracker: It shares the detector's backbone.
        processor: The folder's own `Sam3Processor`.
        phrases_per_pass: With those of other pictures; bounds the memory. A CPU gains nothing from more than one.
    """

    def __init__(self, detector: Any, tracker: Any, processor: Any, phrases_per_pass: int | None = None) -> None:
        super().__init__(tracker, processor.image_processor)
        self._concepts = Concepts(detector, processor, phrases_per_pass or (1 if self._device.type == "cpu" else 4))

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes; what both halves share counts once."""
        models = (self._model, self._concepts.model)
        tensors = {id(tensor): tensor for model in models for tensor in (*model.parameters(), *model.buffers())}
        return sum(tensor.nbytes for tensor in tensors.values())

    @torch.inference_mode()
    def segment_text(self, queries: Sequence[TextQuery]) -> list[list[TextFind]]:
        """Finds and outlines the phrases, in their order; the exemplars of a query hold for each of its phrases.

        Raises:
            InvalidRequestError: A phrase is longer than the model can read: 32 tokens.
        """
        return self._concepts.find(queries)

    def _masks(self, logits: Tensor, embedding: Embedding, threshold: float) -> list[MaskPatch]:
        if not isinstance(embedding, ConceptFrame):
            return super()._masks(logits, embedding, threshold)
        # The detector's reference scales probabilities, not logits.
        return super()._masks(logits.sigmoid(), embedding, torch.tensor(threshold).sigmoid().item())

    def _stretches(self, embedding: Embedding) -> tuple[Stretch, ...]:
        if not isinstance(embedding, ConceptFrame):
            return super()._stretches(embedding)
        return (Stretch(embedding.image_size, embedding.image_size),)
