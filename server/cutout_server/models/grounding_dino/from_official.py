"""Official .pth files on transformers' model: the architecture is told by the shapes of the weights."""

import math
from typing import Any

import torch
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import Weights, fit, place
from cutout_server.models.grounding_dino.names import renamed

_HEADS = 8  # Of every published checkpoint; nothing in the weights tells.
_LIMIT = 256
_Swin: Any = SwinConfig  # Its declared arguments lack some that it takes.


def build(weights: Weights, text: BertConfig, device: torch.device) -> Any:
    """GroundingDinoForObjectDetection in eval mode.

    Its answers are those of the package but for one difference of transformers: between its layers the package keeps
    centres and sizes 1e-3 away from 0 and 1, and transformers 1e-5, both relative to the picture.

    Args:
        weights: Under the official package's names.
        text: The config of their text encoder.
        device: Where it is to be.

    Raises:
        FailedPreconditionError: The weights are of another model.
    """
    try:
        config = _config(weights, text)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise FailedPreconditionError(
            f"the checkpoint is of another model, or a part of one ({error} is missing or odd): "
            "expected an official one such as groundingdino_swint_ogc.pth"
        ) from error
    model: Any = GroundingDinoForObjectDetection(config)
    # A norm that the backbone has and does not use.
    unused = {name: tensor for name, tensor in model.state_dict().items() if ".swin.layernorm." in name}
    fit(model, unused | renamed(weights))
    place(model.eval().requires_grad_(requires_grad=False), device)
    return model


def _config(weights: Weights, text: BertConfig) -> GroundingDinoConfig:
    def shape(name: str) -> torch.Size:
        return weights[name].shape

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})

    stages = range(count("backbone.0.layers."))
    tables = [shape(f"backbone.0.layers.{stage}.blocks.0.attn.relative_position_bias_table") for stage in stages]
    embed_dim, _, patch, _ = shape("backbone.0.patch_embed.proj.weight")
    levels, d_model = shape("transformer.level_embed")
    ffn_dim, _ = shape("transformer.encoder.layers.0.linear1.weight")
    points = _HEADS * levels * 2
    backbone = _Swin(
        patch_size=patch,
        embed_dim=embed_dim,
        depths=[count(f"backbone.0.layers.{stage}.blocks.") for stage in stages],
        num_heads=[heads for _, heads in tables],
        window_size=(math.isqrt(tables[0][0]) + 1) // 2,
        out_features=["stage2", "stage3", "stage4"],
    )
    return GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=shape("transformer.tgt_embed.weight")[0],
        num_feature_levels=levels,
        d_model=d_model,
        encoder_layers=count("transformer.encoder.layers."),
        decoder_layers=count("transformer.decoder.layers."),
        encoder_attention_heads=_HEADS,
        decoder_attention_heads=_HEADS,
        encoder_ffn_dim=ffn_dim,
        decoder_ffn_dim=shape("transformer.decoder.layers.0.linear1.weight")[0],
        encoder_n_points=shape("transformer.encoder.layers.0.self_attn.sampling_offsets.bias")[0] // points,
        decoder_n_points=shape("transformer.decoder.layers.0.cross_attn.sampling_offsets.bias")[0] // points,
        max_text_len=_LIMIT,
    )
