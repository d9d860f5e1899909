"""The model at work: pictures together before there are words, then each with its own phrases."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.image_transforms import center_to_corners_format

from cutout_server.models.embedding import own_embedding
from cutout_server.models.owlv2.pixels import square
from cutout_server.models.pretrained import nbytes
from cutout_server.models.queries import Detection, DetectQuery
from cutout_server.models.rows import own_rows
from cutout_server.models.texts import TextFeatures
from cutout_server.models.tokens import alike, check_texts
from cutout_server.types import Box, RgbImage

_TEXTS = 4096  # That are kept: 2 or 3 KiB each.


@dataclass(frozen=True, eq=False)
class Owlv2Embedding:
    """A picture before there are words, on the model's device.

    Attributes:
        image_size: (height, width) in pixels.
        features: (1, P, D) float32 of each patch.
        boxes: (1, P, 4) float32 centre, width and height in shares of the square around the picture.
    """

    image_size: tuple[int, int]
    features: Tensor = field(repr=False)
    boxes: Tensor = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self.features.untyped_storage().nbytes() + self.boxes.untyped_storage().nbytes()


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
        self._texts = TextFeatures(self._read, _TEXTS)

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return nbytes(self._model)

    @torch.inference_mode()
    def image_features(self, images: Sequence[RgbImage]) -> list[Owlv2Embedding]:
        """Encodes pictures of any sizes, and proposes their boxes."""
        # A CPU gains nothing from a larger batch.
        size = 1 if self._model.device.type == "cpu" else max(1, len(images))
        return [
            embedding for start in range(0, len(images), size) for embedding in self._look(images[start : start + size])
        ]

    @torch.inference_mode()
    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        """Finds the phrases; nothing found is an empty list.

        Raises:
            InvalidRequestError: A phrase is longer than the model can read: 16 tokens.
            TypeError: An embedding is of another family.
        """
        for query in queries:
            check_texts(self._tokenizer, query.phrases, self._limit, lambda index: f"phrases[{index}]")
        texts = self._texts(phrase for query in queries for phrase in query.phrases)
        return [self._detect(query, texts) for query in queries]

    def _read(self, phrases: Sequence[str]) -> list[Tensor]:
        """(1, D) float32 of unit length for each phrase, on the model's device."""
        tokens = self._tokenizer(list(phrases), padding="max_length", max_length=self._limit, return_tensors="pt")
        features = self._model.owlv2.get_text_features(**tokens.to(self._model.device)).pooler_output
        return own_rows(functional.normalize(features, dim=-1))

    def _look(self, images: Sequence[RgbImage]) -> list[Owlv2Embedding]:
        pixels = torch.stack([self._pixels(image) for image in images]).to(self._model.device)
        feature_map, _ = self._model.image_embedder(pixels)
        features = feature_map.flatten(1, 2)
        boxes = self._model.box_predictor(features, feature_map)
        rows = zip(images, own_rows(features), own_rows(boxes), strict=True)
        return [Owlv2Embedding((image.shape[0], image.shape[1]), *own) for image, *own in rows]

    def _detect(self, query: DetectQuery, texts: dict[str, Tensor]) -> list[Detection]:
        embedding = own_embedding(query.embedding, Owlv2Embedding)
        # The picture lies at the top left of a square as long as its longer side.
        relative: Any = embedding.boxes[0]
        boxes: Any = center_to_corners_format(relative) * max(embedding.image_size)
        embeds = torch.cat([texts[phrase] for phrase in query.phrases])
        logits, _ = self._model.class_predictor(embedding.features, embeds[None])
        best, phrases = logits[0].max(dim=-1)
        same = alike(self._tokenizer, query.phrases)
        return _detections(boxes, best.sigmoid(), phrases, query.box_threshold, same)

    def _pixels(self, image: RgbImage) -> Tensor:
        """(3, side, side) float32."""
        return square(image, self._side).mul_(self._rescale).sub_(self._mean).div_(self._std)


def _detections(
    boxes: Tensor, scores: Tensor, phrases: Tensor, threshold: float, same: Sequence[tuple[int, ...]]
) -> list[Detection]:
    kept = scores > threshold
    found = (tensor[kept].tolist() for tensor in (boxes, scores, phrases))
    return [Detection(Box(*box), score, each) for box, score, best in zip(*found, strict=True) for each in same[best]]
