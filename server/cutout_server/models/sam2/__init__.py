"""SAM 2 and SAM 2.1 through the `sam2` package, as its `SAM2ImagePredictor` answers (https://arxiv.org/abs/2408.00714)."""

from cutout_server.models.base import ModelFiles
from cutout_server.models.checkpoint import check_device, fit, place, read
from cutout_server.models.sam2.architecture import build, guess, keep_image_path
from cutout_server.models.sam2.segmenter import Sam2

__all__ = ["Sam2", "load"]


def load(files: ModelFiles, device: str) -> Sam2:
    """Loads a model for pictures.

    Args:
        files: The checkpoint is a file in the official format, such as sam2.1_hiera_tiny.pt. The config is the name of
            an official architecture (sam2.1_hiera_t, facebook/sam2.1-hiera-tiny ...) or a YAML file in the official
            layout; None tells the official architectures apart by the checkpoint.
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The checkpoint or the config cannot be used, or there is no such device.
    """
    where = check_device(device)
    weights = read(files.checkpoint)
    model = build(files.config or guess(weights))
    fit(model, weights)
    keep_image_path(model)
    return Sam2(place(model, where))
