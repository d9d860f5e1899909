"""Both halves as one model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cutout_server.models.bilinear import Interpolation
from cutout_server.models.embedding import Embedding
from cutout_server.models.pretrained import nbytes
from cutout_server.models.queries import TextFind, TextQuery
from cutout_server.models.rows import own_rows
from cutout_server.models.sam2_like import Sam2Like, pixels_of
from cutout_server.models.sam2_like_tracker import Sam2LikeTracker
from cutout_server.models.sam3.concepts import ConceptFrame, Concepts
from cutout_server.models.sam3.encoder import Sam3Embedding, features_of
from cutout_server.types import MaskPatch, RgbImage


class Sam3(Sam2Like):
    """A `TextSegmenter` by the detector, and a `Segmenter`, `GridSegmenter` and `Tracker` by the tracker.

    It answers as `Sam3Model` does with `Sam3Processor` and `post_process_instance_segmentation`, and as
    `Sam3TrackerModel` and `Sam3TrackerVideoModel` do with their processors. One embedding serves all.

    Args:
        backbone: The `Sam3ViTModel` that both halves share, in eval mode, on its device, as are they. Nothing of them
            changes afterwards.
        detector: A `Sam3Model` behind the backbone: its vision encoder is a `Neck`.
        tracker: A `Sam3TrackerModel`, likewise.
        processor: The folder's own `Sam3Processor`.
        video: Follows objects by the weights of the tracker.
        phrases_per_pass: With those of other pictures; bounds the memory. A CPU gains nothing from more than one.
    """

    def __init__(
        self,
        backbone: Any,
        detector: Any,
        tracker: Any,
        processor: Any,
        video: Sam2LikeTracker,
        phrases_per_pass: int | None = None,
    ) -> None:
        super().__init__(tracker, processor.image_processor, video)
        self._backbone = backbone
        self._concepts = Concepts(detector, processor, phrases_per_pass or (1 if self._device.type == "cpu" else 4))

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return super().nbytes + sum(map(nbytes, (self._backbone, self._concepts.model)))

    @torch.inference_mode()
    def segment_text(self, queries: Sequence[TextQuery]) -> list[list[TextFind]]:
        """Finds and outlines the phrases, in their order; the exemplars of a query hold for each of its phrases.

        Raises:
            InvalidRequestError: A phrase is longer than the model can read: 32 tokens.
            TypeError: An embedding is of another family.
        """
        return self._concepts.find(queries)

    def _embed(self, images: Sequence[RgbImage]) -> list[Sam3Embedding]:
        features = features_of(self._backbone, pixels_of(images, self._images).to(self._device))
        levels = self._levels_of(features)
        rows = zip(images, own_rows(features), zip(*map(own_rows, levels), strict=True), strict=True)
        return [Sam3Embedding((image.shape[0], image.shape[1]), levels, features) for image, features, levels in rows]

    def _unremembering(self, last: Tensor) -> Tensor:
        """The same: `Sam3TrackerModel` says it of the level that it leaves out."""
        return last

    def _masks(self, logits: Tensor, embedding: Embedding, threshold: float) -> list[MaskPatch]:
        if not isinstance(embedding, ConceptFrame):
            return super()._masks(logits, embedding, threshold)
        # The detector's reference scales probabilities, not logits.
        return super()._masks(logits.sigmoid(), embedding, torch.tensor(threshold).sigmoid().item())

    def _interpolations(self, embedding: Embedding) -> tuple[Interpolation, ...]:
        if not isinstance(embedding, ConceptFrame):
            return super()._interpolations(embedding)
        return (Interpolation(embedding.image_size, embedding.image_size),)
