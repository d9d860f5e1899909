"""The one backbone through which both halves look at a picture, and what it makes of one."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from cutout_server.models.sam2_like_embedding import Sam2LikeEmbedding


@dataclass(frozen=True, eq=False)
class Sam3Embedding(Sam2LikeEmbedding):
    """A picture after the backbone, for words and for prompts.

    For prompts, of which there are many, it holds the tracker's levels. The detector's are made of the features at each
    call with words: a twentieth of the backbone's work, while holding them would take three times the memory.

    Attributes:
        features: (1, h, w, D) float32 from the backbone.
    """

    features: Tensor = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return super().nbytes + self.features.untyped_storage().nbytes()


class Neck(nn.Module):
    """In place of a half's vision encoder: takes the backbone's features instead of pixels.

    Args:
        encoder: The half's `Sam3VisionModel`.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.neck = encoder.neck

    def forward(self, features: Tensor, **_: object) -> Sam3VisionEncoderOutput:
        """(B, h, w, D) float32 to levels of a feature pyramid."""
        levels, positions = self.neck(features.permute(0, 3, 1, 2))
        return Sam3VisionEncoderOutput(fpn_hidden_states=levels, fpn_position_encoding=positions)


def features_of(backbone: Any, pixels: Tensor) -> Tensor:
    """(B, h, w, D) float32 of (B, 3, side, side) pixels."""
    sides = [side // backbone.config.patch_size for side in pixels.shape[-2:]]
    features: Tensor = backbone(pixels).last_hidden_state.unflatten(1, sides)
    return features
