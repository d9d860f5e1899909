"""Official Grounding DINO weights under the names of transformers' GroundingDinoForObjectDetection."""

import re

import torch

from cutout_server.models.checkpoint import Weights

_PREFIX = "module."  # Of training on several GPUs.
# What only training needs, and what newer versions of BERT compute.
_UNUSED = frozenset({"label_enc.weight", "bert.embeddings.position_ids"})

_BACKBONE = "model.backbone.conv_encoder.model"

# In order; each takes what the one before it left.
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^bert\.", "model.text_backbone."),
        (r"^feat_map\.", "model.text_projection."),
        (r"^input_proj\.", "model.input_proj_vision."),
        (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
        (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
        (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
        (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
        (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
        (r"^transformer\.", "model."),
        (r"(deformable_layer)\.norm1\.", r"\1.self_attn_layer_norm."),
        (r"(deformable_layer)\.norm2\.", r"\1.final_layer_norm."),
        (r"(text_enhancer_layer)\.norm1\.", r"\1.layer_norm_before."),
        (r"(text_enhancer_layer)\.norm2\.", r"\1.layer_norm_after."),
        (r"(fusion_layer)\.gamma_v$", r"\1.vision_param"),
        (r"(fusion_layer)\.gamma_l$", r"\1.text_param"),
        (r"(fusion_layer)\.layer_norm_v\.", r"\1.layer_norm_vision."),
        (r"(fusion_layer)\.layer_norm_l\.", r"\1.layer_norm_text."),
        (r"(fusion_layer\.attn\.(?:values_|out_)?)v_proj\.", r"\1vision_proj."),
        (r"(fusion_layer\.attn\.(?:values_|out_)?)l_proj\.", r"\1text_proj."),
        (r"^model\.decoder\.norm\.", "model.decoder.layer_norm."),
        (r"^model\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
        (r"^(model\.decoder\.layers\.\d+)\.cross_attn\.", r"\1.encoder_attn."),
        (r"^(model\.decoder\.layers\.\d+)\.ca_text\.", r"\1.encoder_attn_text."),
        (r"^(model\.decoder\.layers\.\d+)\.catext_norm\.", r"\1.encoder_attn_text_layer_norm."),
        (r"^(model\.decoder\.layers\.\d+)\.norm1\.", r"\1.encoder_attn_layer_norm."),
        (r"^(model\.decoder\.layers\.\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
        (r"^(model\.decoder\.layers\.\d+)\.norm3\.", r"\1.final_layer_norm."),
        (r"^(model\.(?:en|de)coder\..*)\.linear1\.", r"\1.fc1."),
        (r"^(model\.(?:en|de)coder\..*)\.linear2\.", r"\1.fc2."),
        (r"^backbone\.0\.norm1\.", f"{_BACKBONE}.hidden_states_norms.stage2."),
        (r"^backbone\.0\.norm2\.", f"{_BACKBONE}.hidden_states_norms.stage3."),
        (r"^backbone\.0\.norm3\.", f"{_BACKBONE}.hidden_states_norms.stage4."),
        (r"^backbone\.0\.patch_embed\.proj\.", f"{_BACKBONE}.swin.embeddings.patch_embeddings.projection."),
        (r"^backbone\.0\.patch_embed\.norm\.", f"{_BACKBONE}.swin.embeddings.norm."),
        (r"^backbone\.0\.layers\.", f"{_BACKBONE}.swin.encoder.layers."),
        (r"(\.blocks\.\d+)\.attn\.", r"\1.attention."),
        (r"(\.attention)\.relative_position_bias_table$", r"\1.relative_position_bias.relative_position_bias_table"),
        (r"(\.blocks\.\d+\.attention)\.proj\.", r"\1.o_proj."),
        (r"(\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
        (r"(\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    )
]
# Queries, keys and values in one; all that follows the name is "weight" or "bias".
_JOINED = [
    (re.compile(r"^(.*)\.in_proj_(weight|bias)$"), ("query", "key", "value")),
    (re.compile(r"^(.*\.blocks\.\d+\.attention)\.qkv\.(weight|bias)$"), ("q_proj", "k_proj", "v_proj")),
]
# The pooler's answer is not used, and the index is computed.
_DROPPED = re.compile(r"^model\.text_backbone\.pooler\.|\.relative_position_index$")


def official(weights: Weights) -> Weights:
    """What of a published checkpoint belongs to the model, under the official package's own names."""
    named = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in named.items() if name not in _UNUSED}


def renamed(weights: Weights) -> Weights:
    """The weights of `official` as transformers names and splits them; names that are not known stay."""
    answer: Weights = {}
    for name, tensor in weights.items():
        new = name
        for pattern, replacement in _RENAMED:
            new = pattern.sub(replacement, new)
        if _DROPPED.search(new):
            continue
        for joined, parts in _JOINED:
            if match := joined.match(new):
                thirds = torch.chunk(tensor, len(parts))
                answer |= {f"{match[1]}.{part}.{match[2]}": third for part, third in zip(parts, thirds, strict=True)}
                break
        else:
            answer[new] = tensor
    return answer
