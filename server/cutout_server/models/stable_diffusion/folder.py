"""What a pipeline's folder may be made of. A name in model_index.json is compared with ours and never imported."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from cutout_server.errors import FailedPreconditionError
from cutout_server.types import ModelFiles

_SHARED: dict[str, Any] = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
}
_PARTS: dict[Any, dict[str, Any]] = {
    StableDiffusionPipeline: _SHARED,
    StableDiffusionXLPipeline: {
        **_SHARED,
        "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer_2": CLIPTokenizer,
    },
}
_PIPELINES = {kind.__name__: kind for kind in _PARTS}
_ALIASES = {"CLIPTokenizerFast": "CLIPTokenizer"}
# Folders may have them; a picture made from words needs none.
_UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}

# Those that draw all of their noise from the generator that they are given.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


@dataclass(frozen=True)
class Index:
    """model_index.json, read.

    Attributes:
        folder: Where it lies.
        pipeline: The pipeline's class.
        parts: The class of each part that lies in a folder of its name, but for the scheduler.
        scheduler: The scheduler's class.
        options: Further arguments of the pipeline's class.
    """

    folder: Path
    pipeline: Any
    parts: dict[str, Any]
    scheduler: Any
    options: dict[str, Any]


def read_index(files: ModelFiles) -> Index:
    """Reads what the folder is made of.

    Raises:
        FailedPreconditionError: It is no such folder, or names a class that is not known here.
    """
    folder = files.checkpoint
    if folder is None or not folder.is_dir():
        raise FailedPreconditionError(
            f"checkpoint {folder} is not a folder: expected one with model_index.json and a folder for each part"
        )
    if files.config is not None:
        raise FailedPreconditionError(f"config must not be set: checkpoint {folder} brings its own model_index.json")
    index = _read_json(folder, "model_index.json")
    pipeline = _PIPELINES.get(str(index.get("_class_name")))
    if pipeline is None:
        raise FailedPreconditionError(
            f"checkpoint {folder} is a {index.get('_class_name')!r}; expected {' or '.join(_PIPELINES)}"
        )
    parts = _PARTS[pipeline]
    for name, value in index.items():
        if isinstance(value, list) and name not in _UNUSED:
            _check(folder, name, value, parts)
    if missing := sorted((parts.keys() | {"scheduler"}) - index.keys()):
        raise FailedPreconditionError(f"checkpoint {folder} lacks {', '.join(missing)} in its model_index.json")
    options: dict[str, Any]
    if pipeline is StableDiffusionXLPipeline:
        zeros = bool(index.get("force_zeros_for_empty_prompt", True))
        options = {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}
    else:
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return Index(folder, pipeline, parts, getattr(diffusers, index["scheduler"][1]), options)


def load_scheduler(index: Index) -> Any:
    """The scheduler, with the two settings that the pipelines of Stable Diffusion 1 and 2 insist on.

    Raises:
        FailedPreconditionError: Its settings cannot be used.
    """
    config = _read_json(index.folder / "scheduler", "scheduler_config.json")
    if index.pipeline is StableDiffusionPipeline:
        # The pipeline itself does so, with a deprecation warning for each.
        config |= {name: value for name, value in (("steps_offset", 1), ("clip_sample", False)) if name in config}
    try:
        return index.scheduler.from_config(config)
    except Exception as error:  # settings of nonsense make the constructors raise almost anything
        raise FailedPreconditionError(
            f"checkpoint {index.folder} has a scheduler that cannot be made: {' '.join(str(error).split())[:300]}"
        ) from error


def _check(folder: Path, name: str, value: list[Any], parts: dict[str, Any]) -> None:
    expected = [f"diffusers.{each}" for each in SCHEDULERS] if name == "scheduler" else []
    if name in parts:
        expected = [f"{parts[name].__module__.split('.')[0]}.{parts[name].__name__}"]
    library, found = value if len(value) == 2 else (None, None)
    if f"{library}.{_ALIASES.get(str(found), found)}" not in expected:
        raise FailedPreconditionError(
            f"checkpoint {folder}: model_index.json says that {name} is {value}; "
            f"expected {' or '.join(expected) or 'no such part'}"
        )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FailedPreconditionError(
            f"checkpoint {folder} has no readable {name}: download the whole folder"
        ) from error
    if not isinstance(content, dict):
        raise FailedPreconditionError(f"checkpoint {folder}: {name} holds no object: download the whole folder")
    return content
