"""The encoder: the picture's places and the words attend to each other, and the places to their neighbours."""

from typing import Any

import torch
from torch import Tensor

from cutout_server.models.grounding_dino.deformable import DeformableAttention
from cutout_server.models.grounding_dino.layers import perceptron
from cutout_server.models.grounding_dino.sizes import Grids
from cutout_server.models.grounding_dino.text import Words


class EncoderLayer:
    """A GroundingDinoEncoderLayer; its parameters are shared."""

    def __init__(self, layer: Any) -> None:
        self._fuse = _Fusion(layer.fusion_layer)
        self._enhance = layer.text_enhancer_layer
        self._layer = layer.deformable_layer
        self._attention = DeformableAttention(self._layer.self_attn)

    def __call__(self, picture: Tensor, text: Tensor, words: Words, grids: Grids) -> tuple[Tensor, Tensor]:
        """The next picture and the next text.

        Args:
            picture: (N, S, C) float32.
            text: (N, T, C) float32.
            words: Whose features the text holds.
            grids: Of the picture's size.
        """
        picture, text = self._fuse(picture, text, words)
        text, _ = self._enhance(text, attention_masks=words.together, position_embeddings=words.positions)
        layer = self._layer
        seen = self._attention(picture + grids.positions, picture, grids.centres, None, grids.places)
        picture = layer.self_attn_layer_norm(picture.add_(seen))
        picture.add_(perceptron(picture, (layer.fc1, layer.fc2), layer.activation_fn))
        answer: Tensor = layer.final_layer_norm(picture)
        return answer, text


class _Fusion:
    """Attention between places and words, both ways.

    As there are few words, what a Linear would do to every place is done to the words instead: with W_q x + b as a
    place's query and k as a word's key, (W_q x + b) k = x (W_q' k) + b k; and as shares sum to 1, the sum of the
    values W_v x + b by their shares is W_v (the sum of x by its shares) + b.

    Args:
        layer: A GroundingDinoFusionLayer.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, picture: Tensor, text: Tensor, words: Words) -> tuple[Tensor, Tensor]:
        layer, own = self._layer, self._layer.attn
        heads = own.num_heads
        picture, text = layer.layer_norm_vision(picture), layer.layer_norm_text(text)
        count, tokens, _ = text.shape

        def split(values: Tensor) -> Tensor:
            """(N, T, heads * size) as (N, heads, T, size)."""
            return torch.unflatten(values, -1, (heads, -1)).transpose(1, 2)

        # Of Linears to the heads: (heads, size, C) and (heads, size, 1).
        query, query_bias = (each.unflatten(0, (heads, -1)) for each in (own.vision_proj.weight, own.vision_proj.bias))
        keys = split(own.text_proj(text)) * own.scale
        towards = (keys @ query).flatten(1, 2)
        logits = torch.baddbmm((keys @ query_bias[..., None]).flatten(1, 2).mT, picture, towards.mT)

        out = own.out_vision_proj
        back = split(own.values_text_proj(text)) @ out.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)
        of_words = torch.unflatten(logits, -1, (heads, tokens)).masked_fill(~words.mask[:, None, None], -torch.inf)
        told = torch.bmm(of_words.softmax(-1).flatten(2), back.flatten(1, 2) * layer.vision_param)

        seen = torch.unflatten(logits.softmax(1).mT @ picture, 1, (heads, tokens))
        value = own.values_vision_proj
        seen = seen @ value.weight.unflatten(0, (heads, -1)).mT + value.bias.view(heads, 1, -1)
        text_seen = own.out_text_proj(seen.transpose(1, 2).reshape(count, tokens, -1))
        return picture + told.add_(out.bias * layer.vision_param), text + layer.text_param * text_seen
