"""What depends on the picture's size alone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutout_server.models.grounding_dino.deformable import Places, Shapes


@dataclass(frozen=True)
class Grids:
    """The places of all levels, S of them, level after level and row after row.

    Attributes:
        positions: (1, S, C) float32, the sine embedding and the level's own.
        centres: (1, S, 2, 1, levels * points) float32, x and y of each place in pixels of each level.
        places: For the encoder's attention.
        decoder_places: For the decoder's.
        sides: (2, 1, levels * points) float32, width and height of each level in pixels, for the decoder's.
        proposals: (S, 4) float32, logits of centre and size of the box that each place proposes.
        outside: (S, 1) bool, places that propose none.
    """

    positions: Tensor
    centres: Tensor
    places: Places
    decoder_places: Places
    sides: Tensor
    proposals: Tensor
    outside: Tensor


def grids(model: Any, shapes: Shapes, device: torch.device) -> Grids:
    """What transformers makes of a picture without padding.

    Args:
        model: A GroundingDinoModel.
        shapes: (height, width) of each level's map.
        device: Where it is to be.
    """
    config = model.config
    heads, points = config.encoder_attention_heads, config.encoder_n_points
    places = Places(shapes, heads, points, device)
    positions, relative, proposed = [], [], []
    for level, (height, width) in enumerate(shapes):
        mask = torch.ones(1, height, width, device=device)
        sine = model.backbone.position_embedding(mask, mask).flatten(2).transpose(1, 2)
        positions.append(sine + model.level_embed[level])
        y, x = torch.meshgrid(
            torch.linspace(0.5, height - 0.5, height, device=device) / height,
            torch.linspace(0.5, width - 0.5, width, device=device) / width,
            indexing="ij",
        )
        centre = torch.stack([x, y], dim=-1).view(-1, 2)
        relative.append(centre)
        proposed.append(torch.cat([centre, torch.full_like(centre, 0.05 * 2.0**level)], dim=-1))
    boxes = torch.cat(proposed)
    outside = ~((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    per_head = len(shapes) * points
    decoder_places = Places(shapes, config.decoder_attention_heads, config.decoder_n_points, device)
    return Grids(
        positions=torch.cat(positions, dim=1),
        centres=(torch.cat(relative)[:, :, None, None] * places.sides[:, None, :per_head] - 0.5)[None],
        places=places,
        decoder_places=decoder_places,
        sides=decoder_places.sides[:, None, : len(shapes) * config.decoder_n_points],
        proposals=torch.log(boxes / (1 - boxes)).masked_fill(outside, torch.inf),
        outside=outside,
    )
