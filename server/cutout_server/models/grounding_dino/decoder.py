"""The decoder: the best places become boxes, refined layer by layer."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.grounding_dino.modeling_grounding_dino import encode_sinusoidal_position_embedding

from cutout_server.models.grounding_dino.deformable import DeformableAttention
from cutout_server.models.grounding_dino.layers import attend, perceptron
from cutout_server.models.grounding_dino.sizes import Grids
from cutout_server.models.grounding_dino.text import Words


class Decoder:
    """What follows the encoder in GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection.

    Only what the answer needs is computed: boxes of the places that are chosen, logits of the last layer.

    Args:
        detector: Of transformers; its parameters are shared.
    """

    def __init__(self, detector: Any) -> None:
        self._detector, self._model = detector, detector.model
        layers = detector.model.decoder.layers
        self._layers = [(layer, DeformableAttention(layer.encoder_attn)) for layer in layers]

    def __call__(self, picture: Tensor, text: Tensor, words: Words, grids: Grids) -> tuple[Tensor, Tensor]:
        """See `Network`.

        Args:
            picture: (N, S, C) float32 from the encoder.
            text: (N, T, C) float32 from the encoder.
            words: The prompts.
            grids: Of the picture's size.
        """
        decoder, queries = (
            self._model.decoder,
            self._model.query_position_embeddings.weight.expand(len(picture), -1, -1),
        )
        boxes = self._proposed(picture, text, words, grids)
        for (layer, attention), head in zip(self._layers, decoder.bbox_embed, strict=True):
            start = boxes
            sine = encode_sinusoidal_position_embedding(boxes, num_pos_feats=queries.shape[-1] // 2)
            positions = decoder.reference_points_head(sine)
            placed = queries + positions
            queries = layer.self_attn_layer_norm(queries + attend(layer.self_attn, placed, placed, queries))
            told = attend(layer.encoder_attn_text, queries + positions, text, text, words.mask[:, None, None])
            queries = layer.encoder_attn_text_layer_norm(queries + told)
            corner, size = ((boxes[..., part, None, None] * grids.sides) for part in (slice(2), slice(2, 4)))
            seen = attention(
                queries + positions, picture, corner - 0.5, size * (0.5 / attention.points), grids.decoder_places
            )
            queries = layer.encoder_attn_layer_norm(queries + seen)
            queries = queries + perceptron(queries, (layer.fc1, layer.fc2), layer.activation_fn)
            queries = layer.final_layer_norm(queries)
            boxes = (head(queries) + torch.special.logit(start, eps=1e-5)).sigmoid()
        queries = decoder.layer_norm(queries)
        logits = self._detector.class_embed[-1](queries, text, words.mask)
        return logits, (self._detector.bbox_embed[-1](queries) + torch.special.logit(start, eps=1e-5)).sigmoid()

    def _proposed(self, picture: Tensor, text: Tensor, words: Words, grids: Grids) -> Tensor:
        """(N, queries, 4): centre and size of the boxes that the best places propose."""
        model = self._model
        places = model.enc_output_norm(model.enc_output(picture.masked_fill(grids.outside, 0)))
        # Of `encoder_output_class_embed`, what every place has in common left out: it does not change their order.
        scores = (places @ text.mT).masked_fill(~words.mask[:, None], -torch.inf).amax(-1)
        best = scores.topk(model.config.num_queries, dim=1).indices[..., None]
        offered = model.encoder_output_bbox_embed(places.gather(1, best.expand(-1, -1, places.shape[-1])))
        boxes: Tensor = (offered + grids.proposals[best[..., 0]]).sigmoid()
        return boxes
