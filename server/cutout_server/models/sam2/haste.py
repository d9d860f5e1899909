"""How SAM 2 follows objects faster on a CPU where answers need not be the reference's, rounding for rounding."""

from typing import Any

import torch
from torch import Tensor

from cutout_server.models.mask_decoder import MaskDecoder
from cutout_server.models.runtime import Precision, Runtime
from cutout_server.models.sam2.memory_attention import FrameMemoryAttention, Linear, suits


def hasten(model: Any, runtime: Runtime) -> None:
    """Has memory attention and the memory encoder compute in bf16 if the image encoder does, else in float32 by oneDNN.

    Memory attention multiplies less, too, unless the architecture has one of another form than all official ones.

    Args:
        model: A `SAM2Base` in eval mode, on its device. On others than a CPU it stays as it is.
        runtime: What runs its image encoder.
    """
    if runtime.exact or model.device.type != "cpu":
        return
    dtype = torch.bfloat16 if runtime.precision is Precision.BF16 else torch.float32
    if suits(model.memory_attention):
        model.memory_attention = FrameMemoryAttention(model.memory_attention, model.sam_image_embedding_size, dtype)
    for block in model.memory_encoder.fuser.layers:  # Nearly all of its multiplications are in these two.
        block.pwconv1, block.pwconv2 = (
            Linear(each.weight, each.bias, dtype) for each in (block.pwconv1, block.pwconv2)
        )


def decode_by(model: Any, decoder: MaskDecoder) -> None:
    """Has the objects of a frame, on a CPU, decoded by another decoder of the same weights.

    Args:
        model: As above.
        decoder: Of the model's own module.
    """
    module = model.sam_mask_decoder

    def predict_masks(
        *,
        image_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        high_res_features: list[Tensor] | None = None,
        **_: Any,
    ) -> tuple[Tensor, ...]:
        # As the frame is one.
        finer = [level[:1] for level in high_res_features or () if module.use_high_res_features]
        logits, scores, tokens = decoder.with_tokens(
            image_embeddings, sparse_prompt_embeddings, dense_prompt_embeddings, finer, masks=slice(None)
        )
        presence = (
            module.pred_obj_score_head(tokens[:, 0])
            if module.pred_obj_scores
            else scores.new_full((len(scores), 1), 10.0)
        )
        return logits, scores, tokens[:, -module.num_mask_tokens :], presence

    if model.device.type == "cpu":
        module.predict_masks = predict_masks
