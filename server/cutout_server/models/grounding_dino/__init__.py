"""Grounding DINO and MM Grounding DINO through transformers (https://arxiv.org/abs/2303.05499, 2401.02361)."""

import json
from typing import Any

from transformers import (
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
)

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import check_device, read
from cutout_server.models.engines.eager import DTYPES
from cutout_server.models.grounding_dino.detector import GroundingDino, Network
from cutout_server.models.grounding_dino.fast_network import FastNetwork, is_usual
from cutout_server.models.grounding_dino.from_official import build
from cutout_server.models.grounding_dino.names import official
from cutout_server.models.grounding_dino.pixels import official_pixels, processor_pixels
from cutout_server.models.grounding_dino.text_encoder import text_encoder
from cutout_server.models.grounding_dino.transformers_network import TransformersNetwork, prompter, room
from cutout_server.models.pretrained import folder_of, load_model, load_processor
from cutout_server.models.runtime import EXACT, Runtime
from cutout_server.models.tokens import check_tokenizer
from cutout_server.types import ModelFiles

__all__ = ["GroundingDino", "load"]

_KINDS: dict[str, Any] = {
    "grounding-dino": GroundingDinoForObjectDetection,
    "mm-grounding-dino": MMGroundingDinoForObjectDetection,
}


def load(files: ModelFiles, device: str, runtime: Runtime = EXACT) -> GroundingDino:
    """Loads a detector.

    Args:
        files: The checkpoint is a folder as `save_pretrained` writes it, with the processor's files; or an official
            file of the first Grounding DINO, such as groundingdino_swint_ogc.pth, with the companion `text_encoder`: a
            folder with bert-base-uncased's tokenizer and config.
        device: "cpu", "cuda:0" ...
        runtime: The precision of the layers that take the time; a model that is built otherwise than the published
            ones is computed in float32.

    Raises:
        FailedPreconditionError: The files cannot be used, or there is no such device.
    """
    if files.checkpoint is not None and files.checkpoint.is_file():
        return _from_file(files, device, runtime)
    folder = folder_of(files, _KINDS)
    if files.companions:
        raise FailedPreconditionError(f"companions must not be set: checkpoint {folder} brings its own text encoder")
    processor = load_processor(GroundingDinoProcessor, folder)
    model_type = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    model = load_model(_KINDS[model_type], folder, device)
    config: Any = model.config
    check_tokenizer(processor.tokenizer, config.text_config.vocab_size)
    prepare = processor_pixels(processor.image_processor, room(model))
    return GroundingDino(_network(model, runtime), prompter(model, processor.tokenizer), prepare)


def _from_file(files: ModelFiles, device: str, runtime: Runtime) -> GroundingDino:
    """Pictures are prepared as by the package for which the file was published."""
    where = check_device(device)
    if files.config is not None:
        raise FailedPreconditionError(f"config must not be set: the weights of {files.checkpoint} tell it")
    weights = official(read(files.checkpoint))
    tokenizer, text = text_encoder(files)
    model = build(weights, text, where)
    return GroundingDino(_network(model, runtime), prompter(model, tokenizer), official_pixels(room(model)))


def _network(model: Any, runtime: Runtime) -> Network:
    if is_usual(model.config):
        return FastNetwork(model, DTYPES[runtime.precision])
    return TransformersNetwork(model)
