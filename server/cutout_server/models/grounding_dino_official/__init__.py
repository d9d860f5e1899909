"""Grounding DINO through its own package, with its own weights (https://arxiv.org/abs/2303.05499)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import check_device, fit, place, read
from cutout_server.models.grounding_dino.detector import GroundingDino
from cutout_server.models.grounding_dino.names import official
from cutout_server.models.grounding_dino.pixels import official_pixels, room_for
from cutout_server.models.grounding_dino.prompts import Prompt, Prompter
from cutout_server.models.grounding_dino.text_encoder import text_encoder
from cutout_server.models.grounding_dino_official.architecture import guess, read_config
from cutout_server.models.grounding_dino_official.package import build_model
from cutout_server.models.pretrained import nbytes
from cutout_server.types import ModelFiles

__all__ = ["load"]

_LIMIT = 256  # Tokens; the package knows no other.


def load(files: ModelFiles, device: str) -> GroundingDino:
    """Loads a detector.

    Args:
        files: The checkpoint is a file in the official format, such as groundingdino_swint_ogc.pth. The config is a
            file in the layout of GroundingDINO_SwinT_OGC.py, which is not run; None tells the two official ones apart
            by the checkpoint. The companion `text_encoder` is a folder with bert-base-uncased's tokenizer and config.
        device: "cpu", "cuda:0" ...

    Raises:
        FailedPreconditionError: The files cannot be used, or there is no such device.
    """
    where = check_device(device)
    weights = official(read(files.checkpoint))
    config = guess(weights) if files.config is None else read_config(Path(files.config))
    tokenizer, text = text_encoder(files)
    prompter = Prompter(tokenizer, min(_LIMIT, text.max_position_embeddings))
    try:
        model = build_model(config, text, prompter.marks)
    except MemoryError:
        raise
    except Exception as error:  # a config of nonsense makes the constructors raise almost anything
        raise FailedPreconditionError(
            f"config {files.config} describes no model that the package can build: {' '.join(str(error).split())[:300]}"
        ) from error
    fit(model, weights)
    place(model.eval().requires_grad_(requires_grad=False), where)
    room = room_for(config.num_queries, 4 * 2 ** min(config.return_interm_indices), config.num_feature_levels)
    return GroundingDino(OfficialNetwork(model, where), prompter, official_pixels(room))


class OfficialNetwork:
    """A `Network` of the package's GroundingDINO.

    Args:
        model: In eval mode, on its device.
        device: That device.
    """

    # The package's text layers give the heads of each prompt the masks of all prompts in turn.
    mixes_prompts = False

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self.device = device

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return nbytes(self._model)

    def look(self, pixels: Tensor) -> list[Tensor]:
        """The pixels themselves: the package looks at pictures and prompts in one go."""
        return [pixels]

    def __call__(self, levels: Sequence[Tensor], prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """See `Network`."""
        (pixels,) = levels
        answer = self._model(pixels, captions=prompts)
        return answer["pred_logits"], answer["pred_boxes"]
