"""Which SAM 1 it is: nearly everything shows in the shapes of its weights, and the rest is the same for all."""

from dataclasses import dataclass
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import Weights

SIDE = 1024
_PATCH = 16
_GRID = SIDE // _PATCH
_DECODER_HEADS = 8
# Of the channels of a picture, in [0, 255].
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Encoder:
    """What the official sizes differ in.

    Attributes:
        width: Channels of a token.
        depth: Blocks.
        heads: Of each attention.
        global_blocks: Those that attend to the whole picture; the others look at windows.
        window: Side of a window, in tokens.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14


OFFICIAL = {
    "vit_b": Encoder(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Encoder(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Encoder(1280, 32, 16, (7, 15, 23, 31)),
}


def build(weights: Weights, config: str | None) -> Sam:
    """The architecture of these weights on the CPU, as `segment_anything.build_sam` makes it; its own are undefined.

    Raises:
        FailedPreconditionError: These are no weights of SAM 1, or not of the size that `config` names.
    """
    if config is not None and config not in OFFICIAL:
        raise FailedPreconditionError(f"config {config} is unknown: expected one of {', '.join(OFFICIAL)}, or none")
    try:
        encoder = _encoder(weights)
        with torch.device("meta"):  # The checkpoint's weights follow at once: random ones would take seconds.
            model = _sam(encoder, weights)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        raise FailedPreconditionError(
            f"the checkpoint is not one of SAM 1 ({', '.join(OFFICIAL)}): use an official one, or another family"
        ) from error
    if config is not None and encoder != OFFICIAL[config]:
        raise FailedPreconditionError(f"config is {config}, but the checkpoint is of another size: leave config out")
    model.to_empty(device="cpu")
    # The only tensors that no checkpoint holds.
    model.pixel_mean, model.pixel_std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    model.eval().requires_grad_(requires_grad=False)
    return model


def _encoder(weights: Weights) -> Encoder:
    """A block's extent and a head's width show in its relative positions, (2 * extent - 1, width of a head)."""
    width = weights["image_encoder.pos_embed"].shape[3]
    depth = _count(weights, "image_encoder.blocks.")
    positions = [weights[f"image_encoder.blocks.{block}.attn.rel_pos_h"].shape for block in range(depth)]
    extents = [(length + 1) // 2 for length, _ in positions]
    windows = {extent for extent in extents if extent != _GRID}
    return Encoder(
        width=width,
        depth=depth,
        heads=width // positions[0][1],
        global_blocks=tuple(block for block, extent in enumerate(extents) if extent == _GRID),
        **({"window": windows.pop()} if windows else {}),
    )


def _sam(encoder: Encoder, weights: Weights) -> Sam:
    channels = weights["image_encoder.neck.0.weight"].shape[0]
    decoder = "mask_decoder.transformer.layers."
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=encoder.depth,
            embed_dim=encoder.width,
            img_size=SIDE,
            mlp_ratio=weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / encoder.width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=encoder.heads,
            patch_size=_PATCH,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=encoder.global_blocks,
            window_size=encoder.window,
            out_chans=channels,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(_GRID, _GRID),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=weights["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            transformer=TwoWayTransformer(
                depth=_count(weights, decoder),
                embedding_dim=channels,
                mlp_dim=weights[f"{decoder}0.mlp.lin1.weight"].shape[0],
                num_heads=_DECODER_HEADS,
            ),
            transformer_dim=channels,
            iou_head_depth=_count(weights, "mask_decoder.iou_prediction_head.layers."),
            iou_head_hidden_dim=weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        ),
        pixel_mean=list(_MEAN),
        pixel_std=list(_STD),
    )


def _count(weights: Weights, prefix: str) -> int:
    """How many numbered modules there are."""
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in weights if key.startswith(prefix))
