"""OWLv2 through transformers (https://arxiv.org/abs/2306.09683)."""

from typing import Any

from transformers import Owlv2ForObjectDetection, Owlv2Processor

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.owlv2.detector import Owlv2
from cutout_server.models.pretrained import folder_of, load_model, load_processor
from cutout_server.models.tokens import check_tokenizer
from cutout_server.types import ModelFiles

__all__ = ["Owlv2", "load"]


def load(files: ModelFiles, device: str) -> Owlv2:
    """Loads a detector.

    Args:
        files: The checkpoint is a folder as `save_pretrained` writes it, with the processor's files.
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The folder cannot be used, or there is no such device.
    """
    folder = folder_of(files, ["owlv2"])
    processor = load_processor(Owlv2Processor, folder)
    model = load_model(Owlv2ForObjectDetection, folder, device)
    config: Any = model.config
    check_tokenizer(processor.tokenizer, config.text_config.vocab_size)
    images, side = processor.image_processor, config.vision_config.image_size
    steps = ("do_pad", "do_resize", "do_rescale", "do_normalize")
    if not all(getattr(images, step) for step in steps) or {images.size.height, images.size.width} != {side}:
        raise FailedPreconditionError(
            f"checkpoint {folder} prepares pictures for another model: expected preprocessor_config.json to say "
            f"{', '.join(steps)} and a size of {side} x {side}; download the whole folder"
        )
    return Owlv2(model, processor)
