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
