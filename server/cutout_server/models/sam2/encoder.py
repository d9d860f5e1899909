"""The encoder of SAM 2 as one module, for any engine."""

from typing import Any

from torch import Tensor, nn

from cutout_server.models.sam2.hiera import WindowOrderHiera


class Sam2Encoder(nn.Module):
    """Pixels to what the mask decoder and the tracker take of a picture, by the weights of a model.

    Args:
        model: A `SAM2Base` in eval mode, without the neck's position encodings.
        exact: See `WindowOrderHiera`.
    """

    def __init__(self, model: Any, *, exact: bool) -> None:
        super().__init__()
        self.trunk = WindowOrderHiera(model.image_encoder.trunk, model.image_size, exact=exact)
        self.neck = model.image_encoder.neck
        decoder = model.sam_mask_decoder
        fine = [decoder.conv_s0, decoder.conv_s1] if model.use_high_res_features_in_sam else []
        self.projections = nn.ModuleList(fine)
        self._levels: int = model.num_feature_levels
        self._scalp: int = model.image_encoder.scalp

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, 1024, 1024) to (B, C/8, 256, 256), (B, C/4, 128, 128) and (B, C, 64, 64).

        The first two are for the mask decoder's upscaling, and left out where it takes none.
        """
        levels, _ = self.neck(self.trunk(pixels))
        levels = levels[: len(levels) - self._scalp][-self._levels :]
        *fine, last = (level.to(pixels.dtype) for level in levels)  # The neck resizes in float32.
        projected = (project(level) for project, level in zip(self.projections, fine, strict=False))
        return (*projected, last)


def split(model: Any, *, exact: bool) -> Sam2Encoder:
    """Takes the encoder out of a model, so that an engine can do with its weights as it likes."""
    encoder = Sam2Encoder(model, exact=exact).eval()
    del model.image_encoder
    if model.use_high_res_features_in_sam:
        del model.sam_mask_decoder.conv_s0, model.sam_mask_decoder.conv_s1
    return encoder
