"""EdgeTAM through transformers (https://arxiv.org/abs/2501.07256): SAM 2 with a backbone for phones."""

import json
from pathlib import Path
from typing import Any

from transformers import EdgeTamModel, EdgeTamVideoModel, Sam2Processor

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.positions import NoPositions
from cutout_server.models.pretrained import folder_of, load_model, load_processor
from cutout_server.models.sam2_like import Sam2Like, check_images
from cutout_server.models.sam2_like_tracker import Sam2LikeTracker
from cutout_server.types import ModelFiles

_VIDEO = "edgetam_video"
_BACKBONE_ARGUMENTS = {"in_chans", "features_only", "out_indices", "embed_dim", "depth"}


def load(files: ModelFiles, device: str) -> Sam2Like:
    """Loads a model for pictures, and for videos where the folder has one.

    Args:
        files: The checkpoint is a folder as `save_pretrained` writes it, with the processor's files: of the video
            model, as the released one is, or of the model for pictures.
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The folder cannot be used, or there is no such device.
    """
    folder = folder_of(files, ["edgetam", _VIDEO])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    _check_backbone(folder, config.get("vision_config"))
    images = load_processor(Sam2Processor, folder).image_processor
    model: Any = load_model(EdgeTamModel, folder, device)
    check_images(images, model.config.prompt_encoder_config.image_size, folder)
    video = load_model(EdgeTamVideoModel, folder, device) if config["model_type"] == _VIDEO else None
    tracker = Sam2LikeTracker(video, model) if video is not None else None
    model.vision_encoder.neck.position_encoding = NoPositions()
    return Sam2Like(model, images, tracker)


def _check_backbone(folder: Path, vision: Any) -> None:
    """Lets timm build the backbone and no more: its arguments may name weights to be fetched or unpickled."""
    backbone = vision.get("backbone_config") if isinstance(vision, dict) else None
    if backbone is None:
        return
    if not isinstance(backbone, dict) or backbone.get("model_type", "timm_wrapper") != "timm_wrapper":
        raise FailedPreconditionError(f"checkpoint {folder}: vision_config.backbone_config must be a timm_wrapper")
    arguments, name = backbone.get("model_args") or {}, str(backbone.get("architecture", ""))
    foreign = sorted(set(arguments) - _BACKBONE_ARGUMENTS) if isinstance(arguments, dict) else [str(arguments)]
    if foreign:
        raise FailedPreconditionError(
            f"checkpoint {folder}: backbone_config.model_args may hold {', '.join(sorted(_BACKBONE_ARGUMENTS))}, "
            f"got {', '.join(foreign)}"
        )
    if ":" in name:
        raise FailedPreconditionError(
            f"checkpoint {folder}: backbone_config.architecture must be the name of one in timm, such as repvit_m1, "
            f"got {name!r}"
        )
