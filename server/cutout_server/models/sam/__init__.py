"""SAM 1 through the `segment-anything` package, as its `SamPredictor` answers (https://arxiv.org/abs/2304.02643)."""

import torch
from torch import Tensor, nn

from cutout_server.models.checkpoint import check_device, fit, place, read
from cutout_server.models.engines import EXACT, Runtime, prepare
from cutout_server.models.engines.vit import of_sam
from cutout_server.models.mask_decoder import decoder_dtype
from cutout_server.models.sam.architecture import SIDE, build
from cutout_server.models.sam.segmenter import Sam
from cutout_server.types import ModelFiles

__all__ = ["Sam", "load"]


def load(files: ModelFiles, device: str, runtime: Runtime = EXACT) -> Sam:
    """Loads a model.

    Args:
        files: The checkpoint is a file in the official format, such as sam_vit_b_01ec64.pth. The config is vit_b, vit_l
            or vit_h, and is then held against the checkpoint; left out, the weights say what they are of.
        device: "cpu", "cuda:0" ...
        runtime: What runs the encoder.

    Raises:
        FailedPreconditionError: The checkpoint, the config or the export cannot be used, or there is no such device.
    """
    where = check_device(device)
    weights = read(files.checkpoint)
    model = build(weights, files.config)
    fit(model, weights)
    del weights  # Before an engine makes a copy of its own.
    place(model, where)
    encoder = _Official(model.image_encoder) if runtime.exact else of_sam(model.image_encoder)
    del model.image_encoder  # The engine may convert its weights, or drop them.
    example = torch.zeros(1, 3, SIDE, SIDE, device=where)
    return Sam(model, prepare(encoder, example, runtime), decoder_dtype=decoder_dtype(runtime))


class _Official(nn.Module):
    """The official encoder in the form that engines take, to answer as it does to the bit."""

    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """(B, 3, 1024, 1024) to (B, C, 64, 64)."""
        return (self.image_encoder(pixels),)
