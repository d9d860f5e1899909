"""SAM 1 through the `segment-anything` package, as its `SamPredictor` answers (https://arxiv.org/abs/2304.02643)."""

from cutout_server.models.base import ModelFiles
from cutout_server.models.checkpoint import check_device, fit, place, read
from cutout_server.models.sam.architecture import build
from cutout_server.models.sam.segmenter import Sam

__all__ = ["Sam", "load"]


def load(files: ModelFiles, device: str) -> Sam:
    """Loads a model.

    Args:
        files: The checkpoint is a file in the official format, such as sam_vit_b_01ec64.pth. The config is vit_b, vit_l
            or vit_h, and is then held against the checkpoint; left out, the weights say what they are of.
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The checkpoint or the config cannot be used, or there is no such device.
    """
    where = check_device(device)
    weights = read(files.checkpoint)
    model = build(weights, files.config)
    fit(model, weights)
    return Sam(place(model, where))
