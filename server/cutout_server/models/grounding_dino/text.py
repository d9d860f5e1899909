"""What the words are before they meet a picture, kept for the prompts that were asked last."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.grounding_dino.modeling_grounding_dino import (
    generate_masks_with_special_tokens_and_transfer_map,
)

from cutout_server.models.grounding_dino.detector import padded
from cutout_server.models.grounding_dino.prompts import Prompt


@dataclass(frozen=True)
class Words:
    """Prompts as the encoder meets them, padded to the longest.

    Attributes:
        features: (N, T, C) float32.
        mask: (N, T) bool, true for tokens and false for padding.
        together: (N, T, T) bool, true for tokens of the same phrase.
        positions: (N, T, C) float32, the embedding of each token's place in its phrase.
    """

    features: Tensor
    mask: Tensor
    together: Tensor
    positions: Tensor


class TextTower:
    """BERT and the projection that follows it. What it makes of a prompt does not depend on other prompts.

    Args:
        model: A GroundingDinoModel.
        most: Prompts that are kept; each takes no more than a quarter of a mebibyte.
    """

    def __init__(self, model: Any, most: int = 64) -> None:
        self._model = model
        self._kept = lru_cache(most)(self._read)

    def __call__(self, prompts: Sequence[Prompt]) -> Words:
        """Prompts as one batch."""
        ids, mask = padded(prompts, self._model.device)
        together, places = self._phrases(ids)
        features = [self._kept(prompt.ids) for prompt in prompts]
        longest = ids.shape[1]
        batch = torch.stack([functional.pad(feature, (0, 0, 0, longest - len(feature))) for feature in features])
        positions = self._model.encoder.layers[0].get_text_position_embeddings(batch, None, places)
        return Words(batch, mask.bool(), together, positions)

    def _phrases(self, ids: Any) -> tuple[Tensor, Tensor]:
        return generate_masks_with_special_tokens_and_transfer_map(ids, self._model.special_tokens)

    def _read(self, tokens: tuple[int, ...]) -> Tensor:
        ids = torch.tensor([tokens], device=self._model.device)
        together, places = self._phrases(ids)
        answer = self._model.text_backbone(ids, together[:, None], torch.zeros_like(ids), places)
        features: Tensor = self._model.text_projection(answer.last_hidden_state)
        return features[0]
