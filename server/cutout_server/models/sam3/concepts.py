"""The detector at work: each phrase is asked about the features of its picture."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from cutout_server.models.embedding import own_embedding
from cutout_server.models.queries import TextFind, TextQuery
from cutout_server.models.sam3.encoder import Sam3Embedding
from cutout_server.models.texts import TextFeatures
from cutout_server.models.tokens import check_texts
from cutout_server.types import Box

TEXT_LENGTH = 32  # Tokens that `Sam3Processor` pads a phrase to.
_TEXTS = 1024  # That are kept: 32 KiB each.
_PICTURES_PER_PASS = 4


@dataclass(frozen=True)
class ConceptFrame:
    """The picture that a find's logits are stretched over.

    Attributes:
        image_size: (height, width) in pixels.
    """

    image_size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """It holds no arrays."""
        return 0


@dataclass(frozen=True)
class _Ask:
    """One phrase about one picture; `row` is the picture's in the levels that it is among."""

    row: int
    query: TextQuery
    phrase_index: int
    finds: list[TextFind]


class Concepts:
    """Finds every instance of a concept.

    Args:
        model: A `Sam3Model` behind its backbone, in eval mode, on its device. Nothing of it changes afterwards.
        processor: The folder's own.
        phrases_per_pass: Of any pictures.
    """

    def __init__(self, model: Any, processor: Any, phrases_per_pass: int) -> None:
        self.model = model
        self._tokenizer = processor.tokenizer
        self._texts = TextFeatures(self._read, _TEXTS)
        self._phrases_per_pass = phrases_per_pass

    def find(self, queries: Sequence[TextQuery]) -> list[list[TextFind]]:
        """The finds of each query by phrase, and those of a phrase in the model's order.

        Raises:
            InvalidRequestError: A phrase is too long.
            TypeError: An embedding is of another family.
        """
        for query in queries:
            check_texts(self._tokenizer, query.phrases, TEXT_LENGTH, lambda index: f"phrases[{index}]")
        texts = self._texts(phrase for query in queries for phrase in query.phrases)
        # A CPU gains nothing from a larger batch.
        size = 1 if self.model.device.type == "cpu" else _PICTURES_PER_PASS
        chunks = (queries[start : start + size] for start in range(0, len(queries), size))
        return [finds for chunk in chunks for finds in self._find(chunk, texts)]

    def _read(self, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """(32, D) float32 and (32,) of the tokens that count, for each phrase, on the model's device."""
        tokens = self._tokenizer(list(phrases), padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        features = self.model.get_text_features(**tokens).pooler_output
        # Copies, or the features of one phrase would keep those of all others in memory.
        return [
            (feature.clone(), mask.clone()) for feature, mask in zip(features, tokens["attention_mask"], strict=True)
        ]

    def _find(self, queries: Sequence[TextQuery], texts: dict[str, tuple[Tensor, Tensor]]) -> list[list[TextFind]]:
        distinct = {id(query.embedding): own_embedding(query.embedding, Sam3Embedding) for query in queries}
        vision = self.model.get_vision_features(torch.cat([embedding.features for embedding in distinct.values()]))
        rows = {key: row for row, key in enumerate(distinct)}
        asks = [
            [_Ask(rows[id(query.embedding)], query, index, []) for index in range(len(query.phrases))]
            for query in queries
        ]
        for group in self._groups([ask for each in asks for ask in each]):
            answer = self._answer(vision, group, [texts[ask.query.phrases[ask.phrase_index]] for ask in group])
            scores = answer.pred_logits.sigmoid() * answer.presence_logits.sigmoid()
            for ask, *of_one in zip(group, scores, answer.pred_boxes, answer.pred_masks, strict=True):
                ask.finds.extend(_finds(ask, *of_one))
        return [[find for ask in each for find in ask.finds] for each in asks]

    def _groups(self, asks: Sequence[_Ask]) -> Iterator[list[_Ask]]:
        """Those with as many exemplars go together, so that none needs padding."""
        alike: dict[int, list[_Ask]] = defaultdict(list)
        for ask in asks:
            alike[len(ask.query.exemplars)].append(ask)
        for each in alike.values():
            for start in range(0, len(each), self._phrases_per_pass):
                yield each[start : start + self._phrases_per_pass]

    def _answer(self, vision: Any, asks: Sequence[_Ask], texts: Sequence[tuple[Tensor, Tensor]]) -> Any:
        rows = [ask.row for ask in asks]
        features, attention = (torch.stack(each) for each in zip(*texts, strict=True))
        exemplars = {}
        if asks[0].query.exemplars:
            boxes, labels = (torch.stack(each) for each in zip(*map(_exemplars, asks), strict=True))
            device = self.model.device
            exemplars = {"input_boxes": boxes.to(device), "input_boxes_labels": labels.to(device)}
        return self.model(
            vision_embeds=Sam3VisionEncoderOutput(
                fpn_hidden_states=tuple(level[rows] for level in vision.fpn_hidden_states),
                # They are the same for every picture.
                fpn_position_encoding=tuple(
                    level[:1].expand(len(rows), -1, -1, -1) for level in vision.fpn_position_encoding
                ),
            ),
            text_embeds=BaseModelOutputWithPooling(pooler_output=features),
            attention_mask=attention,
            **exemplars,
        )


def _exemplars(ask: _Ask) -> tuple[Tensor, Tensor]:
    """(N, 4) float32 as centre, width and height in shares of the picture, and (N,) 1 for what is wanted, else 0."""
    height, width = ask.query.embedding.image_size
    boxes = [exemplar.box for exemplar in ask.query.exemplars]
    size = torch.tensor([width, height], dtype=torch.float32)
    starts = torch.tensor([[box.x_min, box.y_min] for box in boxes], dtype=torch.float32) / size
    ends = torch.tensor([[box.x_max, box.y_max] for box in boxes], dtype=torch.float32) / size
    return torch.cat([(starts + ends) / 2, ends - starts], dim=1), torch.tensor(
        [int(exemplar.positive) for exemplar in ask.query.exemplars]
    )


def _finds(ask: _Ask, scores: Tensor, boxes: Tensor, masks: Tensor) -> list[TextFind]:
    height, width = ask.query.embedding.image_size
    kept = scores > ask.query.box_threshold
    corners = boxes[kept] * torch.tensor([width, height, width, height], device=boxes.device)
    frame = ConceptFrame((height, width))
    found = zip(scores[kept].tolist(), corners.tolist(), masks[kept].cpu().numpy(), strict=True)
    return [TextFind(Box(*box), score, ask.phrase_index, frame, mask.copy()) for score, box, mask in found]
