"""Small SAM 3 folders in the layout of the released one, with seeded weights."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_checkpoints import clip_tokenizer
from cutout_server.models.memory import give_back
from random_weights import scattered
from safetensors.torch import load_file, save_file
from sam2_like_weights import tame_decoder, tame_memory
from transformers import (
    Sam2VideoVideoProcessor,
    Sam3ImageProcessor,
    Sam3VideoConfig,
    Sam3VideoModel,
    Sam3VideoProcessor,
)

SIDE = 224  # Of what the small models look at.
_GRID = SIDE // 14
_WIDTH = 32
_VIDEO_WIDTH = 128  # The least that the memory attention takes.
_NARROW = {"hidden_size": _WIDTH, "intermediate_size": 64, "num_attention_heads": 4}


def small_config(width: int = _WIDTH, **memory: object) -> Sam3VideoConfig:
    """The released architecture with narrow and few layers, and small pictures.

    Args:
        width: Of the feature pyramid and of what comes after it.
        memory: Further settings of the tracker.
    """
    wide = {**_NARROW, "hidden_size": width}
    tokenizer = clip_tokenizer(model_max_length=32)
    vision = {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": width,
        "backbone_feature_sizes": [[_GRID * 4] * 2, [_GRID * 2] * 2, [_GRID] * 2],
        "backbone_config": {
            **_NARROW,
            "model_type": "sam3_vit_model",
            "num_hidden_layers": 3,
            "image_size": SIDE,
            "window_size": 8,
            "global_attn_indexes": [2],
            "pretrain_image_size": SIDE // 2,
        },
    }
    text = {
        **_NARROW,
        "model_type": "clip_text_model",
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "projection_dim": 16,
        "max_position_embeddings": 32,
        **{f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in ("bos", "eos", "pad")},
    }
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": text,
        "geometry_encoder_config": {**wide, "num_layers": 2},
        "detr_encoder_config": {**wide, "num_layers": 2},
        "detr_decoder_config": {**wide, "num_layers": 2, "num_queries": 20},
        "mask_decoder_config": {"hidden_size": width, "num_attention_heads": 4},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "image_size": SIDE,
        "prompt_encoder_config": {"hidden_size": width, "image_size": SIDE},
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": 64,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
        },
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": 16,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 64,
        "memory_fuser_num_layers": 1,
        **memory,
    }
    return Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=_GRID * 4)


@torch.no_grad()
def tame(model: Any) -> None:
    """Makes fresh layers tell pictures, places, phrases and exemplars apart."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.endswith("position_embeddings"):
            fan_in = parameter[0].numel() if "embed" not in name.rsplit(".", 2)[-2] else 1
            parameter.normal_(0, 1.5 / fan_in**0.5)
        elif name.endswith(".bias"):
            parameter.normal_(0, 0.1)
    for layer in model.tracker_neck.fpn_layers:
        layer.proj2.weight.mul_(0.1)
    tame_decoder(model.tracker_model)
    tame_memory(model.tracker_model, presence=2.1)


def rename(file: Path, old: str, new: str) -> None:
    """Changes the prefix of tensors."""
    weights = {
        new + key.removeprefix(old) if key.startswith(old) else key: each for key, each in load_file(file).items()
    }
    renamed = file.with_suffix(".renamed")
    save_file(weights, renamed, metadata={"format": "pt"})
    renamed.replace(file)


def small_video_config() -> Sam3VideoConfig:
    """The same with a memory of few frames, so that a short video is beyond them."""
    return small_config(
        _VIDEO_WIDTH,
        num_maskmem=3,
        max_object_pointers_in_encoder=4,
        max_cond_frame_num=2,
        memory_attention_rope_feat_sizes=[_GRID] * 2,
        memory_encoder_output_channels=64,
    )


def write_sam3(folder: Path, config: Sam3VideoConfig, seed: int = 15, *, tamed: bool = True) -> Path:
    """Writes a folder as the released one is laid out."""
    torch.manual_seed(seed)
    if tamed:
        model = Sam3VideoModel(config)
        tame(model)
    else:
        model = scattered(lambda: Sam3VideoModel(config))
    model.save_pretrained(folder)
    del model
    give_back("cpu")  # Else the heap keeps the full size's weights beside those that are read, here and by the test.
    if tamed:  # The full size's gigabytes are left as they are, which is read as well.
        # The transformers of the release wrote the tracker's prefix once, those of today write it twice.
        rename(folder / "model.safetensors", "tracker_model.tracker_model.", "tracker_model.")
    side = config.image_size
    low_res = 4 * side // 14
    Sam3VideoProcessor(
        image_processor=Sam3ImageProcessor(
            size={"height": side, "width": side}, mask_size={"height": low_res, "width": low_res}
        ),
        video_processor=Sam2VideoVideoProcessor(size={"height": side, "width": side}),
        tokenizer=clip_tokenizer(model_max_length=32),
    ).save_pretrained(folder)
    return folder


@cache
def _small(folder: Path) -> Path:
    return write_sam3(folder / "sam3", small_config())


@cache
def _small_video(folder: Path) -> Path:
    return write_sam3(folder / "sam3-video", small_video_config())


@pytest.fixture(scope="session")
def sam3_video_folder(tmp_path_factory) -> Iterator[Path]:
    """A small SAM 3 that follows objects."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield _small_video(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sam3_folder(tmp_path_factory) -> Iterator[Path]:
    """A small SAM 3."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Layers this narrow gain nothing from more.
    yield _small(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)
