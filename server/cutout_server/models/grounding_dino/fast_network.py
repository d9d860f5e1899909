"""Grounding DINO and MM Grounding DINO with transformers' weights and the same mathematics, in less time."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from cutout_server.models.grounding_dino.decoder import Decoder
from cutout_server.models.grounding_dino.encoder import EncoderLayer
from cutout_server.models.grounding_dino.prompts import Prompt
from cutout_server.models.grounding_dino.sizes import grids
from cutout_server.models.grounding_dino.swin import Swin
from cutout_server.models.grounding_dino.text import TextTower
from cutout_server.models.pretrained import nbytes

_SIZES = 4  # Of pictures; at 800 x 1066 each holds 36 MiB.


def is_usual(config: Any) -> bool:
    """Whether a config is of the published kind, which is all that `FastNetwork` knows."""
    return bool(
        config.backbone_config.model_type == "swin"
        and config.two_stage
        and config.embedding_init_target
        and config.position_embedding_type == "sine"
        and config.num_feature_levels > 1
    )


class FastNetwork:
    """A `Network` that answers as `TransformersNetwork` does.

    Args:
        model: In eval mode, on its device; of a usual config. It is this network's from now on.
        dtype: Of the layers that take the time, weights and all: the backbone's, and those of the encoder that see
            the picture without the words. Between them, and in the decoder, all is float32.
    """

    mixes_prompts = True

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self._detector, self._model = model, model.model
        backbone = self._model.backbone.conv_encoder.model
        if dtype != torch.float32:
            for layer in _heavy(self._model):
                layer.to(dtype)
        self._swin = Swin(backbone)
        self._text = TextTower(self._model)
        self._encoder = [EncoderLayer(layer) for layer in self._model.encoder.layers]
        self._decoder = Decoder(model)
        self._grids = lru_cache(_SIZES)(lambda shapes: grids(self._model, shapes, self.device))

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return nbytes(self._detector)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        device: torch.device = self._detector.device
        return device

    def __call__(self, levels: Sequence[Tensor], prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """See `Network`."""
        sized = self._grids(tuple((level.shape[2], level.shape[3]) for level in levels))
        words = self._text(prompts)
        picture, text = torch.cat([level.flatten(2).mT for level in levels], dim=1), words.features
        for layer in self._encoder:
            picture, text = layer(picture, text, words, sized)
        return self._decoder(picture, text, words, sized)

    def look(self, pixels: Tensor) -> list[Tensor]:
        """(N, C, height, width) of each level; the backbone's work, and the projection's."""
        tokens = self._swin(pixels)
        # Contiguous, as torch's GroupNorm is less exact with channels last.
        sources = [torch.unflatten(each.mT, 2, size).contiguous() for each, size in tokens]
        projections = self._model.input_proj_vision
        maps = [project(source) for project, source in zip(projections, sources, strict=False)]
        source = sources[-1]
        for project in projections[len(maps) :]:
            source = project(source)
            maps.append(source)
        return maps


def _heavy(model: Any) -> list[nn.Module]:
    """The Linears of the backbone and of the encoder that see every place of a picture."""
    deformable = (layer.deformable_layer for layer in model.encoder.layers)
    parts = (model.backbone.conv_encoder.model, *deformable)
    return [each for part in parts for each in part.modules() if isinstance(each, nn.Linear)]
