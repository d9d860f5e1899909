"""A small SAM 1 in the official format, with seeded weights that answer as trained ones do: near the prompt."""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from skimage import data
from torch.nn import functional

WIDTH = 64  # Of the decoder.


def official_model(checkpoint: Path | None = None) -> Sam:
    """What `segment_anything.build_sam` makes, with narrow layers."""
    model = Sam(
        image_encoder=ImageEncoderViT(
            depth=2,
            embed_dim=24,
            img_size=1024,
            mlp_ratio=2,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=2,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=(1,),
            window_size=14,
            out_chans=WIDTH,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=48, num_heads=8),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=40,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    if checkpoint is not None:
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return model.eval()


def official_predictor(model: Sam, image: np.ndarray) -> SamPredictor:
    predictor = SamPredictor(model)
    predictor.set_image(image)
    return predictor


@torch.no_grad()
def shape_answers(decoder: torch.nn.Module, *, logits: float, outside: float, iou: float) -> None:
    """Makes masks smooth regions of many sizes, with predicted IoUs and stabilities wide apart.

    Args:
        decoder: Of SAM 1 or 2.
        logits: How steep the masks' borders are.
        outside: By how much all logits are lowered.
        iou: How far apart the predicted IoUs lie.
    """
    upscaling = decoder.output_upscaling
    for layer in (upscaling[0], upscaling[3]):
        # The same for all four pixels that one becomes, or masks would be grids of dots.
        layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight) * 3)
    upscaling[3].weight[:, 0] = 0  # One feature is the same everywhere: it can lower all logits.
    upscaling[3].bias[0] = 2
    for network in decoder.output_hypernetworks_mlps:
        network.layers[-1].weight *= logits
        network.layers[-1].bias *= logits
        network.layers[-1].weight[0] = 0
        network.layers[-1].bias[0] = -outside
    head = decoder.iou_prediction_head.layers[-1]
    head.weight *= iou
    head.bias += 0.6


def smooth(grid: torch.Tensor, amplitude: float) -> torch.Tensor:
    """Another positional embedding of this (1, H, W, C) shape, which tells places apart and neighbours hardly."""
    few = torch.randn(1, grid.shape[3], 5, 5)
    return amplitude * functional.interpolate(few, grid.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)


@torch.no_grad()
def write_sam(path: Path, model: Sam) -> Path:
    """Writes a checkpoint of this architecture whose masks are neither empty nor full, with steep logits."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.mul_(1.5)
        if name.endswith(("rel_pos_h", "rel_pos_w")):
            parameter.normal_(0, 0.02)
    model.image_encoder.pos_embed.copy_(smooth(model.image_encoder.pos_embed, 2))
    shape_answers(model.mask_decoder, logits=300, outside=3, iou=1)
    torch.save(model.state_dict(), path)  # Bare, as the official files are.
    return path


@cache
def _sam_checkpoint(folder: Path) -> Path:
    torch.manual_seed(10)
    path = write_sam(folder / "sam_narrow.pth", official_model())
    masks, _, logits = official_predictor(official_model(path), data.astronaut()).predict(
        np.array([[220, 100]]), np.array([1])
    )
    shares = masks.mean((1, 2))
    assert ((shares > 0.002) & (shares < 0.998)).all(), shares
    assert np.abs(logits).max() > 40
    return path


@pytest.fixture(scope="session")
def sam_checkpoint(tmp_path_factory) -> Iterator[Path]:
    """A narrow SAM 1 checkpoint."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Layers this narrow gain nothing from more.
    yield _sam_checkpoint(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)
