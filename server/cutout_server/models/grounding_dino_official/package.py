"""The `groundingdino` package, mended where transformers 5 and a machine without a network need it.

This is the one place that imports it. Its warnings are of no use to an operator: an old path of timm, escapes in
strings, and `torch.meshgrid` without `indexing`, of which PyTorch warns once in a process.
"""

import threading
import warnings
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutput

from cutout_server.models.grounding_dino.detector import padded
from cutout_server.models.grounding_dino.prompts import Prompt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from groundingdino.config import GroundingDINO_SwinB_cfg, GroundingDINO_SwinT_OGC
    from groundingdino.models.GroundingDINO import groundingdino

    torch.meshgrid(torch.zeros(1))

__all__ = ["GroundingDINO_SwinB_cfg", "GroundingDINO_SwinT_OGC", "TextEncoder", "build_model"]

_LOCK = threading.Lock()


class TextEncoder(nn.Module):
    """What the package's BertModelWarper was: BERT whose tokens attend as a mask for each says.

    Args:
        bert_model: Of which its parts are taken, under their own names.
    """

    def __init__(self, bert_model: BertModel) -> None:
        super().__init__()
        self.config = bert_model.config
        self.embeddings = bert_model.embeddings
        self.encoder = bert_model.encoder
        self.pooler = bert_model.pooler

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, token_type_ids: Tensor
    ) -> BaseModelOutput:
        """Encodes tokens.

        Args:
            input_ids: (N, T) int64.
            attention_mask: (N, T, T) bool, true where a token attends to another.
            position_ids: (N, T) int64, counted from the start of each phrase.
            token_type_ids: (N, T) int64.

        Returns:
            With `last_hidden_state`, (N, T, D).
        """
        x = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids)
        forbidden = torch.finfo(x.dtype).min
        mask = torch.zeros(attention_mask.shape, dtype=x.dtype, device=x.device).masked_fill(~attention_mask, forbidden)
        answer: BaseModelOutput = self.encoder(x, attention_mask=mask[:, None])
        return answer


class _Captions:
    """Stands for the tokenizer: prompts are tokens already."""

    def __init__(self, marks: Sequence[int]) -> None:
        self._marks = marks

    def convert_tokens_to_ids(self, _: Sequence[str]) -> Sequence[int]:
        """The ids of the marks, the only tokens that the package asks for."""
        return self._marks

    def __call__(self, prompts: Sequence[Prompt], **_: object) -> BatchEncoding:
        """The prompts as one batch, on the CPU."""
        ids, mask = padded(prompts, torch.device("cpu"))
        return BatchEncoding({"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask})


def build_model(config: SimpleNamespace, text: BertConfig, marks: Sequence[int]) -> nn.Module:
    """The package's own model with fresh weights, whose captions are prompts.

    While it is built, the package gets its text encoder from here instead of a hub.

    Args:
        config: As the package's own configs.
        text: The config of BERT.
        marks: The ids of "[CLS]", "[SEP]", "." and "?".
    """
    parts = SimpleNamespace(
        get_tokenlizer=lambda _: _Captions(marks),
        get_pretrained_language_model=lambda _: BertModel(text),
    )
    with _LOCK:
        own = groundingdino.get_tokenlizer, groundingdino.BertModelWarper
        groundingdino.get_tokenlizer, groundingdino.BertModelWarper = parts, TextEncoder
        try:
            model = groundingdino.build_groundingdino(config)
        finally:
            groundingdino.get_tokenlizer, groundingdino.BertModelWarper = own
    for layer in model.transformer.decoder.layers:
        layer.forward_ffn = partial(_feed_forward, layer)
    built: nn.Module = model
    return built


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    """The decoder layer's own, which turns autocast off for it in a way that PyTorch warns of; nothing turns it on."""
    answer: Tensor = layer.norm3(x + layer.linear2(layer.activation(layer.linear1(x))))
    return answer
