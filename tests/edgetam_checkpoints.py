"""Small EdgeTAM folders as `save_pretrained` writes them, with seeded weights."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2_like_weights import tame_decoder, tame_memory
from skimage import data
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    EdgeTamVisionConfig,
    Sam2ImageProcessor,
    Sam2Processor,
    TimmWrapperConfig,
)

SIDE = 256  # Of what the small models look at.
_WIDTH = 32
_VIDEO_WIDTH = 128  # The least that the memory attention takes.


def backbone(**arguments: object) -> TimmWrapperConfig:
    """As the released config has it, with further arguments."""
    arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3], **arguments}
    return TimmWrapperConfig(architecture="repvit_m1", model_args=arguments)


def small_config(width: int = _WIDTH) -> EdgeTamConfig:
    """Few and narrow layers, and small pictures."""
    channels = [8, 16, 24, 32]
    vision = EdgeTamVisionConfig(
        backbone_config=backbone(embed_dim=channels, depth=[1, 1, 2, 1]),
        backbone_channel_list=channels[::-1],
        backbone_feature_sizes=[[SIDE // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=width,
    )
    decoder = {"hidden_size": width, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": width}
    return EdgeTamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": width, "image_size": SIDE},
        mask_decoder_config=decoder,
    )


def small_video_config() -> EdgeTamVideoConfig:
    """The same with a small memory, of few frames, so that a short video is beyond them."""
    stills = small_config(_VIDEO_WIDTH)
    return EdgeTamVideoConfig(
        vision_config=stills.vision_config,
        prompt_encoder_config=stills.prompt_encoder_config.to_dict(),
        mask_decoder_config=stills.mask_decoder_config.to_dict(),
        image_size=SIDE,
        num_maskmem=3,
        max_object_pointers_in_encoder=4,
        memory_attention_hidden_size=_VIDEO_WIDTH,
        memory_attention_num_layers=1,
        memory_attention_mlp_hidden_size=64,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        memory_attention_rope_k_sizes=[4, 4],
        memory_encoder_hidden_size=_VIDEO_WIDTH,
        memory_fuser_intermediate_dim=64,
        memory_fuser_num_layers=1,
        mask_downsampler_embed_dim=_VIDEO_WIDTH,
        memory_fuser_embed_dim=_VIDEO_WIDTH,
        perceiver_resampler_num_latents=8,
        perceiver_resampler_num_latents_2d=16,
        perceiver_resampler_num_layers=1,
    )


@torch.no_grad()
def tame(model: EdgeTamModel | EdgeTamVideoModel, processor: Sam2Processor) -> None:
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


def write_edgetam_video(folder: Path, seed: int = 1) -> Path:
    """Writes a folder as the released one is."""
    torch.manual_seed(seed)
    model = EdgeTamVideoModel(small_video_config())
    processor = Sam2Processor(Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}))
    tame(model, processor)
    tame_memory(model, presence=-0.6)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@cache
def _small(folder: Path) -> Path:
    return write_edgetam(folder / "edgetam", small_config())


@cache
def _small_video(folder: Path) -> Path:
    return write_edgetam_video(folder / "edgetam-video")


@pytest.fixture(scope="session")
def edgetam_video_folder(tmp_path_factory) -> Iterator[Path]:
    """A small EdgeTAM for videos."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield _small_video(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def edgetam_folder(tmp_path_factory) -> Iterator[Path]:
    """A small EdgeTAM."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Layers this narrow gain nothing from more.
    yield _small(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)
