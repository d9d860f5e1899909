"""Grounding DINO and MM Grounding DINO through transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cutout_server.models.grounding_dino.detector import padded
from cutout_server.models.grounding_dino.pixels import Check, room_for
from cutout_server.models.grounding_dino.prompts import Prompt, Prompter
from cutout_server.models.pretrained import nbytes


class TransformersNetwork:
    """A `Network` of GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection.

    Args:
        model: In eval mode, on its device.
    """

    mixes_prompts = True

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return nbytes(self._model)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        device: torch.device = self._model.device
        return device

    def look(self, pixels: Tensor) -> list[Tensor]:
        """The pixels themselves: the model looks at pictures and prompts in one go."""
        return [pixels]

    def __call__(self, levels: Sequence[Tensor], prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """See `Network`."""
        (pixels,) = levels
        ids, mask = padded(prompts, pixels.device)
        answer = self._model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        return answer.logits, answer.pred_boxes


def prompter(model: Any, tokenizer: Any) -> Prompter:
    """Prompts for a model of transformers, which knows the marks of bert-base-uncased alone.

    Raises:
        FailedPreconditionError: The tokenizer has others.
    """
    config = model.config
    # Positions are counted from the start of each phrase.
    limit = min(config.max_text_len, config.text_config.max_position_embeddings)
    return Prompter(tokenizer, limit, model.model.special_tokens.tolist())


def room(model: Any) -> Check:
    """A check that a picture is not too narrow for the model."""
    config = model.config
    backbone = config.backbone_config
    stride = getattr(backbone, "patch_size", 4) * 2 ** (min(backbone.out_indices) - 1)
    return room_for(config.num_queries if config.two_stage else 1, stride, config.num_feature_levels)
