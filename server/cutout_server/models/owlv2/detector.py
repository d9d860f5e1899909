"""The model at work: texts once for each call, pictures together, each picture with its own phrases."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.image_transforms import center_to_corners_format

from cutout_server.models.base import Detection, DetectQuery
from cutout_server.models.owlv2.pixels import square
from cutout_server.models.pretrained import nbytes
from cutout_server.models.tokens import alike, check_texts
from cutout_server.types import Box

_TEXTS_PER_PASS = 64  # Bounds the memory.


class Owlv2:
    """A `Detector` that answers as `Owlv2ForObjectDetection` does with its processor.

    Each patch of the picture proposes one box, for the phrase that fits it best, and for each that the model reads the
    same; its score is the sigmoid of that phrase's logit. The boxes are not clipped to the picture, and several may lie
    on one object, as in the reference. Phrases go to the model as they are: it was trained with templates such as "a
    photo of a {}" too, and a caller who wants one writes it. `text_threshold` has no meaning here: a box has one score.

    Args:
        model: In eval mode, on its device. Nothing of it changes afterwards.
        processor: The folder's own.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._tokenizer = processor.tokenizer
        self._limit: int = model.config.text_config.max_position_embeddings
        self._side: int = model.config.vision_config.image_size
        images = processor.image_processor
        self._rescale: float = images.rescale_factor
        self._mean = torch.tensor(images.image_mean).view(3, 1, 1)
        self._std = torch.tensor(images.image_std).view(3, 1, 1)

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return nbytes(self._model)

    @torch.inference_mode()
    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        """Finds the phrases; nothing found is an empty list.

        Raises:
            InvalidRequestError: A phrase is longer than the model can read: 16 tokens.
        """
        for query in queries:
            check_texts(self._tokenizer, query.phrases, self._limit, lambda index: f"phrases[{index}]")
        texts = self._embed(list(dict.fromkeys(phrase for query in queries for phrase in query.phrases)))
        # A CPU gains nothing from a larger batch.
        size = 1 if self._model.device.type == "cpu" else max(1, len(queries))
        return [
            detections
            for start in range(0, len(queries), size)
            for detections in self._detect(queries[start : start + size], texts)
        ]

    def _embed(self, phrases: Sequence[str]) -> dict[str, Tensor]:
        """(D,) float32 of unit length for each phrase, on the model's device."""
        embedded: dict[str, Tensor] = {}
        for start in range(0, len(phrases), _TEXTS_PER_PASS):
            chunk = list(phrases[start : start + _TEXTS_PER_PASS])
            tokens = self._tokenizer(chunk, padding="max_length", max_length=self._limit, return_tensors="pt")
            features = self._model.owlv2.get_text_features(**tokens.to(self._model.device)).pooler_output
            embedded.update(zip(chunk, functional.normalize(features, dim=-1), strict=True))
        return embedded

    def _detect(self, queries: Sequence[DetectQuery], texts: dict[str, Tensor]) -> list[list[Detection]]:
        model = self._model
        pixels = torch.stack([self._pixels(query) for query in queries]).to(model.device)
        feature_map, _ = model.image_embedder(pixels)
        features = feature_map.flatten(1, 2)
        # The picture lies at the top left of a square as long as its longer side.
        sides = torch.tensor([max(query.pixels.shape[:2]) for query in queries], device=model.device)
        relative: Any = center_to_corners_format(model.box_predictor(features, feature_map))
        boxes = relative * sides.view(-1, 1, 1)
        answers = []
        for index, query in enumerate(queries):
            embeds = torch.stack([texts[phrase] for phrase in query.phrases])
            logits, _ = model.class_predictor(features[index : index + 1], embeds[None])
            best, phrases = logits[0].max(dim=-1)
            same = alike(self._tokenizer, query.phrases)
            answers.append(_detections(boxes[index], best.sigmoid(), phrases, query.box_threshold, same))
        return answers

    def _pixels(self, query: DetectQuery) -> Tensor:
        """(3, side, side) float32."""
        return square(query.pixels, self._side).mul_(self._rescale).sub_(self._mean).div_(self._std)


def _detections(
    boxes: Tensor, scores: Tensor, phrases: Tensor, threshold: float, same: Sequence[tuple[int, ...]]
) -> list[Detection]:
    kept = scores > threshold
    found = (tensor[kept].tolist() for tensor in (boxes, scores, phrases))
    return [Detection(Box(*box), score, each) for box, score, best in zip(*found, strict=True) for each in same[best]]
