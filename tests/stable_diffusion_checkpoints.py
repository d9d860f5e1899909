"""Small Stable Diffusion pipelines in the official layout, with seeded weights, and the official code for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# As in Stable Diffusion 1.5.
PNDM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "o n</w>", "t h", "th e</w>", "a n", "an d</w>"]


def write_tokenizer(folder: Path, *, pad: str = "<|endoftext|>") -> Path:
    """Writes vocab.json and merges.txt of a byte-level BPE, and nothing newer, as the official folders have them."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in MERGES)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def text_config(width: int = 32, **changes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        **{
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 523,
            "projection_dim": width,
            "bos_token_id": 521,
            "eos_token_id": 522,
            "pad_token_id": 522,
        }
        | changes
    )


def small_vae() -> AutoencoderKL:
    """Three levels: a side of the picture is four of the latents'."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=128,
    )


def small_unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "sample_size": 24,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
        }
        | changes
    )


def liven(pipeline: DiffusionPipeline) -> None:
    """Scales weights so that words and guidance matter and pictures are neither flat nor clipped throughout."""
    with torch.no_grad():
        for name, parameter in pipeline.unet.named_parameters():
            if "attn2" in name and parameter.ndim > 1:
                parameter.mul_(6)
        pipeline.vae.decoder.conv_out.weight.mul_(4)


def write_sd1(folder: Path) -> Path:
    """Stable Diffusion 1 in small, 24 latents a side, 96 pixels."""
    torch.manual_seed(1)
    pipeline = StableDiffusionPipeline(
        vae=small_vae(),
        text_encoder=CLIPTextModel(text_config()).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(write_tokenizer(folder.with_name("words"))),
        unet=small_unet(),
        scheduler=PNDMScheduler(**PNDM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    liven(pipeline)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL in small: two text encoders, one with a projection, and another padding in the second."""
    torch.manual_seed(2)
    pipeline = StableDiffusionXLPipeline(
        vae=small_vae(),
        text_encoder=CLIPTextModel(text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(16, hidden_act="gelu")).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(write_tokenizer(folder.with_name("words"))),
        tokenizer_2=CLIPTokenizer.from_pretrained(write_tokenizer(folder.with_name("words_2"), pad="!")),
        unet=small_unet(
            cross_attention_dim=48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + 16,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(**{k: PNDM[k] for k in ("beta_start", "beta_end", "beta_schedule")}),
        add_watermarker=False,
    )
    liven(pipeline)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def official(folder: Path) -> Callable[..., np.ndarray]:
    """The official pipeline of a folder; asked for pictures, it gives (H, W, 3) uint8."""
    checker = {} if "XL" in (folder / "model_index.json").read_text() else {"safety_checker": None}
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **checker)
    pipeline.set_progress_bar_config(disable=True)

    def make(seed: int, **arguments: Any) -> np.ndarray:
        return np.array(pipeline(**arguments, generator=torch.Generator().manual_seed(seed)).images[0])

    make.pipeline = pipeline
    return make


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Stable Diffusion 1."""
    return write_sd1(tmp_path_factory.mktemp("sd1") / "pipeline")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Stable Diffusion XL."""
    return write_sdxl(tmp_path_factory.mktemp("sdxl") / "pipeline")
