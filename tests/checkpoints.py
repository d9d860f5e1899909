"""Small checkpoints in the official formats, with seeded weights, and the official code that reads them."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import OmegaConf
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor
from skimage import data

# The official tiny architecture with narrow layers; the picture's side stays, as the predictor knows no other.
NARROW = {
    "image_encoder.trunk.embed_dim": 8,
    "image_encoder.trunk.stages": [1, 1, 2, 1],
    "image_encoder.trunk.global_att_blocks": [3],
    "image_encoder.neck.d_model": 32,
    "image_encoder.neck.backbone_channel_list": [64, 32, 16, 8],
    "image_encoder.neck.position_encoding.num_pos_feats": 32,
    "memory_attention.d_model": 32,
    "memory_attention.num_layers": 1,
    "memory_attention.layer.d_model": 32,
    "memory_attention.layer.dim_feedforward": 64,
    "memory_attention.layer.self_attention.embedding_dim": 32,
    "memory_attention.layer.cross_attention.embedding_dim": 32,
    "memory_attention.layer.cross_attention.kv_in_dim": 16,
    "memory_encoder.in_dim": 32,
    "memory_encoder.out_dim": 16,
    "memory_encoder.position_encoding.num_pos_feats": 16,
    "memory_encoder.mask_downsampler.embed_dim": 32,
    "memory_encoder.fuser.layer.dim": 32,
    "memory_encoder.fuser.num_layers": 1,
}


@dataclass(frozen=True)
class Sam2Files:
    """A checkpoint and its config."""

    checkpoint: Path
    config: Path


def official_config(name: str = "sam2.1/sam2.1_hiera_t") -> Path:
    return Path(str(resources.files("sam2"))) / "configs" / f"{name}.yaml"


def narrow_config(folder: Path, **changes) -> Path:
    """Writes the narrow architecture's config; `changes` are of keys below `model`, with __ for the dots."""
    tree = OmegaConf.load(official_config())
    for key, value in {**NARROW, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        OmegaConf.update(tree, f"model.{key}", value, force_add=True)
    path = folder / "narrow.yaml"
    OmegaConf.save(tree, path)
    return path


def official_model(config: Path, checkpoint: Path | None, build: Callable[..., torch.nn.Module] = build_sam2):
    """What `build_sam2`, or another builder of the package, makes of a config that lies anywhere."""
    packaged = get_gh_backup()  # sam2 points hydra's global state at its own configs when it is imported
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config.parent), version_base="1.2"):
            return build(config.name, None if checkpoint is None else str(checkpoint), device="cpu")
    finally:
        restore_gh_from_backup(packaged)


def official_predictor(model: torch.nn.Module, image: np.ndarray) -> SAM2ImagePredictor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.*")  # which it uses though newer PyTorch deprecates it
        predictor = SAM2ImagePredictor(model)
    predictor.set_image(image)
    return predictor


def write_sam2(folder: Path, config: Path, seed: int = 3) -> Path:
    """Writes a checkpoint whose masks are neither empty nor full and whose logits go beyond the clamp at 32."""
    torch.manual_seed(seed)
    model = official_model(config, None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name.startswith(("image_encoder", "sam_")):
                parameter.mul_(1.5)
        for network in model.sam_mask_decoder.output_hypernetworks_mlps:
            network.layers[-1].weight *= 40
            network.layers[-1].bias *= 40
    path = folder / f"{config.stem}.pt"
    torch.save({"model": model.state_dict()}, path)
    return path


@cache
def _sam2_files(folder: Path) -> Sam2Files:
    config = narrow_config(folder)
    files = Sam2Files(write_sam2(folder, config), config)
    predictor = official_predictor(official_model(config, files.checkpoint), data.astronaut())
    masks, _, logits = predictor.predict(point_coords=np.array([[220, 100]]), point_labels=np.array([1]))
    shares, boundaries = masks.mean((1, 2)), np.abs(np.diff(masks, axis=2)).mean((1, 2))
    assert ((shares > 0.05) & (shares < 0.95) & (boundaries > 0.002)).all(), (shares, boundaries)
    assert (np.abs(logits) == 32).any()
    return files


@pytest.fixture(scope="session")
def sam2_files(tmp_path_factory) -> Iterator[Sam2Files]:
    """A narrow SAM 2.1 checkpoint and its config."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Layers this narrow gain nothing from more.
    yield _sam2_files(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)
