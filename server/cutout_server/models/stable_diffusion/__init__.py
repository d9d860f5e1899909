"""Stable Diffusion 1, 2 and XL through `diffusers`, as its pipelines answer (https://arxiv.org/abs/2112.10752)."""

from typing import Any

from cutout_server.models.checkpoint import check_device
from cutout_server.models.pretrained import load_model, load_processor
from cutout_server.models.stable_diffusion.folder import load_scheduler, read_index
from cutout_server.models.stable_diffusion.generator import StableDiffusion
from cutout_server.types import ModelFiles

__all__ = ["StableDiffusion", "load"]

_MODELS = ("vae", "unet", "text_encoder", "text_encoder_2")


def load(files: ModelFiles, device: str) -> StableDiffusion:
    """Loads a pipeline in float32. Its safety checker is not run, nor is any code that the folder names.

    Args:
        files: The checkpoint is a folder as a pipeline's `save_pretrained` writes it: model_index.json and one folder
            for each part, weights as safetensors.
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The folder cannot be used, or there is no such device.
    """
    where = check_device(device)
    index = read_index(files)
    parts: dict[str, Any] = {
        name: load_model(kind, index.folder / name, device)
        if name in _MODELS
        else load_processor(kind, index.folder / name)
        for name, kind in index.parts.items()
    }
    model = StableDiffusion(index.pipeline, parts, load_scheduler(index), index.options, where)
    model.try_out()
    return model
