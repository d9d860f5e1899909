"""Which SAM 2 it is: the configs of the `sam2` package, or a YAML file in their layout."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import HydraException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from torch import Tensor, nn

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import Weights

# Channels of the first stage and blocks in all, which no two sizes share.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
_SIDE = 1024  # SAM2ImagePredictor's feature sizes are those of this side alone.


def _spellings() -> dict[str, str]:
    """Name, hub id, checkpoint's name and config's path of each official architecture -> its path in the package."""
    return {
        spelling: config
        for hub_id, (config, checkpoint) in HF_MODEL_ID_TO_FILENAMES.items()
        for spelling in (Path(config).stem, Path(config).name, config, Path(checkpoint).stem, hub_id)
    }


NAMES = tuple(Path(config).stem for config, _ in HF_MODEL_ID_TO_FILENAMES.values())
_PATHS = _spellings()


def guess(weights: Weights) -> str:
    """Tells the official architectures apart by their weights.

    Raises:
        FailedPreconditionError: It is none of them.
    """
    stem = weights.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {key.split(".")[3] for key in weights if key.startswith("image_encoder.trunk.blocks.")}
    size = _SIZES.get((len(stem), len(blocks))) if stem is not None and stem.ndim else None
    if size is None:
        raise FailedPreconditionError(
            f"the checkpoint is of no official architecture ({', '.join(NAMES)}): "
            "set config to the YAML file that it was trained with"
        )
    return f"sam2.1_hiera_{size}" if "no_obj_embed_spatial" in weights else f"sam2_hiera_{size}"


def build(config: str) -> nn.Module:
    """Builds the model with random weights on the CPU, as `build_sam2` and `build_sam2_video_predictor` do.

    That is with their post-processing, but for the filling of holes, which few installations of `sam2` can do.

    Hydra's global state, which `build_sam2` goes through, is left alone, so that two models can be built at once.

    Args:
        config: An official name or a YAML file.

    Raises:
        FailedPreconditionError: There is no such config, or it cannot be used.
    """
    tree = _read(config)
    decoder = "model.sam_mask_decoder_extra_args.dynamic_multimask"
    OmegaConf.update(tree, f"{decoder}_via_stability", value=True, force_add=True)
    OmegaConf.update(tree, f"{decoder}_stability_delta", value=0.05, force_add=True)
    OmegaConf.update(tree, f"{decoder}_stability_thresh", value=0.98, force_add=True)
    OmegaConf.update(tree, "model.binarize_mask_from_pts_for_mem_enc", value=True, force_add=True)
    try:
        model: nn.Module = instantiate(tree.model, _recursive_=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise FailedPreconditionError(f"config {config} cannot be built: {' '.join(str(error).split())}") from error
    return model.eval().requires_grad_(False)


def take_positions(model: Any) -> Tensor:
    """(1, C, h, w) float32: the positional encoding of a frame's tokens.

    It is the same for all frames, so that the encoder's own, with its cache, is dropped.
    """
    side = model.sam_image_embedding_size
    positions: Tensor = model.image_encoder.neck.position_encoding(torch.zeros(1, model.hidden_dim, side, side))
    model.image_encoder.neck.position_encoding = nn.Identity()
    return positions


def _read(config: str) -> DictConfig:
    known = _PATHS.get(config)
    path = Path(str(resources.files("sam2"))) / known if known else Path(config)
    if not path.is_file():
        raise FailedPreconditionError(
            f"config {config} is neither a file nor an official architecture: use one of {', '.join(NAMES)}, "
            "or the path of a YAML file in the layout of theirs"
        )
    try:
        tree = OmegaConf.load(path)
        OmegaConf.resolve(tree)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise FailedPreconditionError(
            f"config {config} cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(tree, DictConfig) or not isinstance(tree.get("model"), DictConfig):
        raise FailedPreconditionError(f"config {config} has no section `model`: see sam2.1_hiera_t.yaml for the layout")
    if tree.model.get("image_size") != _SIDE:
        raise FailedPreconditionError(f"config {config}: model.image_size must be {_SIDE}")
    if not known:
        _refuse_foreign_code(config, OmegaConf.to_container(tree))
    return tree


def _refuse_foreign_code(config: str, tree: Any) -> None:
    # A target may be any callable that can be reached by a dotted path, `sam2.build_sam.os.system` among them.
    for key, value in _items(tree):
        if key == "_target_" and not _is_sam2_module(value):
            raise FailedPreconditionError(f"config {config}: _target_ {value} is no module class of sam2.modeling")
        if key == "weights_path" and value is not None:
            raise FailedPreconditionError(f"config {config}: weights_path must be null, weights are the checkpoint's")


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _items(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _items(value)


def _is_sam2_module(target: Any) -> bool:
    if not isinstance(target, str) or not target.startswith("sam2.modeling."):
        return False
    try:
        found = get_class(target)
    except (HydraException, ImportError, ValueError, AttributeError):
        return False
    return issubclass(found, nn.Module) and f"{found.__module__}.{found.__qualname__}" == target
