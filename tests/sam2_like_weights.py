"""Seeded weights for the small decoders of SAM 2's descendants."""

from typing import Any

import torch


@torch.no_grad()
def tame_decoder(model: Any) -> None:
    """Makes a fresh prompt encoder and mask decoder tell places and prompts apart, and amplify no rounding."""
    for part in (model.prompt_encoder, model.mask_decoder):
        for name, parameter in part.named_parameters():
            if "embed.weight" in name or "token" in name.split(".")[0]:
                parameter.normal_(0, 2)
            elif parameter.ndim > 1:
                gain = 1.5
                if name.startswith("transformer"):
                    gain = 0.6 if name.endswith(("q_proj.weight", "k_proj.weight")) else 0.45
                parameter.normal_(0, gain / parameter[0].numel() ** 0.5)
            elif name.endswith(".bias"):
                parameter.normal_(0, 0.1)


_STILLS = ("vision_encoder", "prompt_encoder", "mask_decoder", "shared_image_embedding")
_TOKENS = ("no_", "occlusion", "memory_temporal")


@torch.no_grad()
def tame_memory(model: Any, presence: float) -> None:
    """Makes what only videos need matter: fresh layers let no object's memory tell it from another.

    Args:
        model: For videos.
        presence: What is added to the logit of the object's presence, so that it is in some frames and not in others.
    """
    for name, parameter in model.named_parameters():
        if name.startswith(_STILLS) or name.endswith("norm.weight"):
            continue
        if parameter.ndim > 1 and not name.startswith(_TOKENS):
            parameter.normal_(0, _gain(name) / parameter[0].numel() ** 0.5)
        else:
            parameter.normal_(0, 0.3)
    model.mask_decoder.pred_obj_score_head.proj_out.bias.add_(presence)


def _gain(name: str) -> float:
    return 3.0 if "cross_attn" in name or name.startswith("object_pointer_proj") else 1.0
