"""SAM 2 and SAM 2.1 through the `sam2` package, as its predictors answer (https://arxiv.org/abs/2408.00714)."""

from typing import Any

import torch

from cutout_server.models.checkpoint import check_device, fit, place, read
from cutout_server.models.engines import EXACT, Runtime, prepare
from cutout_server.models.mask_decoder import decoder_dtype
from cutout_server.models.sam2.architecture import build, guess, take_positions
from cutout_server.models.sam2.encoder import split
from cutout_server.models.sam2.haste import hasten
from cutout_server.models.sam2.segmenter import Sam2
from cutout_server.models.sam2.tracker import Sam2Tracker
from cutout_server.types import ModelFiles

__all__ = ["Sam2", "load"]


def load(files: ModelFiles, device: str, runtime: Runtime = EXACT) -> Sam2:
    """Loads a model for pictures and videos.

    Args:
        files: The checkpoint is a file in the official format, such as sam2.1_hiera_tiny.pt. The config is the name of
            an official architecture (sam2.1_hiera_t, facebook/sam2.1-hiera-tiny ...) or a YAML file in the official
            layout; None tells the official architectures apart by the checkpoint.
        device: "cpu", "cuda:0" ...
        runtime: What runs the encoder; on a CPU what follows objects computes in its precision.

    Raises:
        FailedPreconditionError: The checkpoint, the config or the export cannot be used, or there is no such device.
    """
    where = check_device(device)
    weights = read(files.checkpoint)
    model: Any = build(files.config or guess(weights))
    fit(model, weights)
    del weights  # Before an engine makes a copy of its own.
    positions = take_positions(model)
    place(model, where)
    hasten(model, runtime)
    example = torch.zeros(1, 3, model.image_size, model.image_size, device=where)
    encoder = prepare(split(model, exact=runtime.exact), example, runtime)
    return Sam2(model, encoder, Sam2Tracker(model, positions), decoder_dtype=decoder_dtype(runtime))
