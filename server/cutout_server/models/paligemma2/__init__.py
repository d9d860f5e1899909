"""PaliGemma 2 mix (https://arxiv.org/abs/2412.03555) through transformers, with its own mask decoder."""

from pathlib import Path
from typing import Any

from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.paligemma2.mask_decoder import read_mask_decoder
from cutout_server.models.paligemma2.segmenter import PaliGemma2
from cutout_server.models.pretrained import folder_of, load_model, load_processor
from cutout_server.types import ModelFiles

__all__ = ["PaliGemma2", "load"]


def load(files: ModelFiles, device: str) -> PaliGemma2:
    """Loads a text segmenter, in the dtype that config.json names: bfloat16 for the released models, 6 GB for 3B.

    Args:
        files: The checkpoint is a folder as `save_pretrained` writes it, with the processor's files, of PaliGemma 2 mix
            (PaliGemma mix will do too). The companion `mask_decoder` is the file vae-oid.npz.
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The files cannot be used, or there is no such device.
    """
    mask_decoder = read_mask_decoder(files.companions.get("mask_decoder"))
    folder = folder_of(files, ["paligemma"])
    processor = load_processor(PaliGemmaProcessor, folder)
    model = load_model(PaliGemmaForConditionalGeneration, folder, device, dtype="auto")
    _check(processor, model.config, folder)
    return PaliGemma2(model, processor, mask_decoder)


def _check(processor: Any, config: Any, folder: Path) -> None:
    """Makes sure that the processor is the model's own."""
    side = config.vision_config.image_size
    marks = processor.tokenizer.convert_tokens_to_ids(["<loc0000>", "<loc1023>", "<seg000>", "<seg127>"])
    images = processor.image_processor
    if (
        (images.size.height, images.size.width) != (side, side)
        or not all((images.do_resize, images.do_rescale, images.do_normalize))
        or processor.image_seq_length != (side // config.vision_config.patch_size) ** 2
        or processor.image_token_id != config.image_token_id
        or max(marks) >= config.text_config.vocab_size
    ):
        raise FailedPreconditionError(
            f"checkpoint {folder} has the processor of another model: expected one for pictures of {side} x {side} and "
            "the tokens of config.json; download the whole folder"
        )
