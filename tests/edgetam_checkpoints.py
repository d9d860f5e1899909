"""Small EdgeTAM folders as `save_pretrained` writes them, with seeded weights."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2_like_weights import tame_decoder
from skimage import data
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    EdgeTamVisionConfig,
    Sam2ImageProcessor,
    Sam2Processor,
    TimmWrapperConfig,
)

SIDE = 256  # Of what the small models look at.
_WIDTH = 32


def backbone(**arguments: object) -> TimmWrapperConfig:
    """As the released config has it, with further arguments."""
    arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3], **arguments}
    return TimmWrapperConfig(architecture="repvit_m1", model_args=arguments)


def small_config() -> EdgeTamConfig:
    """Few and narrow layers, and small pictures."""
    channels = [8, 16, 24, 32]
    vision = EdgeTamVisionConfig(
        backbone_config=backbone(embed_dim=channels, depth=[1, 1, 2, 1]),
        backbone_channel_list=channels[::-1],
        backbone_feature_sizes=[[SIDE // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=_WIDTH,
    )
    decoder = {"hidden_size": _WIDTH, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": _WIDTH}
    return EdgeTamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": _WIDTH, "image_size": SIDE},
        mask_decoder_config=decoder,
    )


@torch.no_grad()
def tame(model: EdgeTamModel, processor: Sam2Processor) -> None:
    """Makes fresh layers tell pictures, places and prompts apart, and gives the norms what they would have seen."""
    tame_decoder(model)
    pictures = [np.ascontiguousarray(picture) for picture in (data.astronaut(), data.chelsea(), data.coffee())]
    seen = processor(images=pictures, return_tensors="pt")["pixel_values"]
    model.vision_encoder.backbone.train()
    for _ in range(30):
        model.vision_encoder.backbone(seen)
    model.eval()
    features = model.vision_encoder.backbone(seen).last_hidden_state
    for convolution, of_level in zip(model.vision_encoder.neck.convs, reversed(features), strict=True):
        spread = of_level.std((0, 2, 3)).mean().item()
        convolution.weight.normal_(0, 1 / (spread * convolution.in_channels**0.5))
        convolution.bias.copy_(-convolution.weight[:, :, 0, 0] @ of_level.mean((0, 2, 3)))


def write_edgetam(folder: Path, config: EdgeTamConfig, seed: int = 1, *, tamed: bool = True) -> Path:
    """Writes a folder."""
    torch.manual_seed(seed)
    model, side = EdgeTamModel(config), config.prompt_encoder_config.image_size
    processor = Sam2Processor(Sam2ImageProcessor(size={"height": side, "width": side}))
    if tamed:
        tame(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@cache
def _small(folder: Path) -> Path:
    return write_edgetam(folder / "edgetam", small_config())


@pytest.fixture(scope="session")
def edgetam_folder(tmp_path_factory) -> Iterator[Path]:
    """A small EdgeTAM."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Layers this narrow gain nothing from more.
    yield _small(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)
