"""SAM 3 through transformers (https://arxiv.org/abs/2511.16719): concepts by words and examples, objects by prompts.

Both in pictures; objects through videos, too.
"""

from pathlib import Path
from typing import Any

from transformers import Sam3Model, Sam3Processor, Sam3TrackerModel, Sam3TrackerVideoModel

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import place
from cutout_server.models.pretrained import folder_of, load_model, load_processor
from cutout_server.models.sam2_like import check_images
from cutout_server.models.sam2_like_tracker import Sam2LikeTracker
from cutout_server.models.sam3.caches import bypass
from cutout_server.models.sam3.concepts import TEXT_LENGTH
from cutout_server.models.sam3.encoder import Neck
from cutout_server.models.sam3.segmenter import Sam3
from cutout_server.models.tokens import check_tokenizer
from cutout_server.types import ModelFiles

__all__ = ["Sam3", "load"]

# transformers 5 writes this prefix twice when it saves the video model again.
_TWICE = {r"^tracker_model\.tracker_model\.": "tracker_model."}


def load(files: ModelFiles, device: str) -> Sam3:
    """Loads the backbone, the detector and the tracker of a released folder.

    Args:
        files: The checkpoint is a folder as `save_pretrained` writes it, with the processor's files, of the whole of
            SAM 3, which config.json calls "sam3_video".
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The folder cannot be used, or there is no such device.
    """
    folder = folder_of(files, ["sam3_video"])
    processor = load_processor(Sam3Processor, folder)
    detector: Any = load_model(Sam3Model, folder, device)
    tracker: Any = load_model(Sam3TrackerModel, folder, "cpu", key_mapping=_TWICE)
    video: Any = load_model(_VideoTracker, folder, device, key_mapping=_TWICE, remove_vision_encoder=True)
    _check(processor, detector.config, tracker.config, folder)
    backbone = detector.vision_encoder.backbone
    bypass(detector)
    for half in (detector, tracker):
        half.vision_encoder = Neck(half.vision_encoder)
    place(tracker, detector.device)
    return Sam3(backbone, detector, tracker, processor, Sam2LikeTracker(video, tracker))


class _VideoTracker(Sam3TrackerVideoModel):  # type: ignore[no-untyped-call]
    """The tracker for videos without a vision encoder, as it shares that of the tracker for pictures."""

    _keys_to_ignore_on_load_unexpected = ["^detector_model.", "^vision_encoder."]  # noqa: RUF012 - as the base class says it

    @classmethod
    def is_custom_code(cls) -> bool:
        """It is not: transformers renames the weights of its own models alone."""
        return False


def _check(processor: Any, detector: Any, tracker: Any, folder: Path) -> None:
    """Makes sure that the processor is the model's own, and that both halves can share the backbone."""
    backbone = detector.vision_config.backbone_config
    if backbone.to_dict() != tracker.vision_config.backbone_config.to_dict():
        raise FailedPreconditionError(
            f"checkpoint {folder} has two backbones: expected detector_config and tracker_config of config.json to "
            "agree on vision_config.backbone_config"
        )
    if tracker.prompt_encoder_config.image_size != backbone.image_size:
        raise FailedPreconditionError(
            f"checkpoint {folder}: tracker_config.prompt_encoder_config.image_size must be the backbone's, "
            f"{backbone.image_size}"
        )
    if detector.text_config.max_position_embeddings < TEXT_LENGTH:
        raise FailedPreconditionError(
            f"checkpoint {folder}: detector_config.text_config.max_position_embeddings must be {TEXT_LENGTH} at least"
        )
    check_images(processor.image_processor, backbone.image_size, folder)
    check_tokenizer(processor.tokenizer, detector.text_config.vocab_size)
