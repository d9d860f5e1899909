"""The mask decoders of SAM 1 and 2 for many prompts of one picture, with the answers of the official ones.

Their weights are shared. Beside the transformer (see `two_way`) the upscaling is done differently: a transposed
convolution whose stride is its kernel's size makes each token a square of tokens by itself, so that it is one matrix
product, after which the tokens of a square stay together; only the finished masks are put into the order of pixels.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cutout_server.models import two_way
from cutout_server.models.onednn import linear, product
from cutout_server.models.runtime import Runtime
from cutout_server.models.two_way import ImageTokens

# On a CPU: their tokens stay near its cores, and its threads seldom wait for each other. A GPU takes all.
_PROMPTS_AT_ONCE = {torch.float32: 2, torch.bfloat16: 8}


def decoder_dtype(runtime: Runtime) -> torch.dtype | None:
    """What a `MaskDecoder` computes in; None where the official module is to answer, rounding for rounding."""
    if runtime.exact:
        return None
    return torch.bfloat16 if runtime.bf16_decoder else torch.float32


class MaskDecoder:
    """A mask decoder in eval mode that answers as `segment_anything`'s and `sam2`'s do.

    Args:
        module: The official one, on its device. Nothing of it changes afterwards.
        positions: (1, C, h, w) float32, the positional encoding of the image tokens.
        dtype: What the thousands of image tokens are computed in; the few that become scores and the mask's weights
            end in float32.
    """

    def __init__(self, module: Any, positions: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self._module = module
        self._dtype = dtype
        self._grid = (positions.shape[2], positions.shape[3])
        self._positions = _tokens(positions).to(dtype).contiguous()
        self._transformer = _in(module.transformer, dtype)
        coarse, self._norm, _, fine, _ = _in(module.output_upscaling, dtype)
        self._coarse, self._fine = _Doubling(coarse), _Doubling(fine)
        present = [module.obj_score_token.weight] if getattr(module, "pred_obj_scores", False) else []
        self._first = len(present)
        self._outputs = torch.cat([*present, module.iou_token.weight, module.mask_tokens.weight])

    def __call__(
        self, image: Tensor, sparse: Tensor, dense: Tensor, finer: Sequence[Tensor] = (), *, masks: slice
    ) -> tuple[Tensor, Tensor]:
        """Decodes prompts.

        Args:
            image: (1, C, h, w) float32 of the image encoder.
            sparse: (N, P, C) float32 of the prompt encoder.
            dense: (N, C, h, w) float32 of the prompt encoder, or (1, C, h, w) where all prompts have the same.
            finer: (1, C / 8, 4h, 4w) and (1, C / 4, 2h, 2w) float32 of the image encoder of SAM 2.
            masks: Which masks of a prompt are wanted.

        Returns:
            (N, masks, 4h, 4w) float32 logits and (N, masks) float32 predicted IoU.
        """
        logits, predicted_iou, _ = self.with_tokens(image, sparse, dense, finer, masks=masks)
        return logits, predicted_iou

    def with_tokens(
        self, image: Tensor, sparse: Tensor, dense: Tensor, finer: Sequence[Tensor] = (), *, masks: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes prompts, of which each may have an image of its own.

        Returns:
            What a call does, and (N, T, C) float32, what has become of the module's own tokens: that of presence where
            there is one, that of the scores, and those of all masks.
        """
        prompts = torch.cat([self._outputs.expand(len(sparse), -1, -1), sparse], 1)
        step = _PROMPTS_AT_ONCE[self._dtype] if image.device.type == "cpu" else len(prompts)
        tokens = _tokens(image + dense).to(self._dtype).contiguous()
        images = [ImageTokens(each, each + self._positions) for each in torch.split(tokens, step)]
        if len(dense) == 1:
            images *= math.ceil(len(prompts) / step)
        squares = [_squares(features.to(self._dtype), self._grid) for features in finer]
        parts = torch.split(prompts.to(self._dtype), step)
        answers = [self._decode(*each, squares, masks) for each in zip(images, parts, strict=True)]
        logits, predicted_iou, ends = (torch.cat(each) for each in zip(*answers, strict=True))
        return logits, predicted_iou, ends

    def _decode(
        self, image: ImageTokens, prompts: Tensor, squares: Sequence[Tensor], masks: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, image_tokens = self._attend(image, prompts)
        tokens = tokens.float()
        predicted_iou = self._module.iou_prediction_head(tokens[:, self._first])[:, masks]
        networks = list(enumerate(self._module.output_hypernetworks_mlps, start=self._first + 1))[masks]
        weights = torch.stack([network(tokens[:, place]) for place, network in networks], 1)
        upscaled = self._upscale(image_tokens, *squares)
        logits = product(weights.to(self._dtype), upscaled.transpose(1, 2))
        return _pixels(logits.float(), self._grid), predicted_iou, tokens[:, : len(self._outputs)]

    def _attend(self, image: ImageTokens, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the prompts (N, T, C) and of the image (N, M, C) after the transformer."""
        transformer = self._transformer
        if two_way.saves_work(transformer, prompts.shape[1]):
            return two_way.attend(transformer, image, self._positions, prompts)
        grids = (_grid(each, self._grid).expand(len(prompts), -1, -1, -1) for each in (image.tokens, self._positions))
        answer: tuple[Tensor, Tensor] = transformer(*grids, prompts)
        return answer

    def _upscale(self, tokens: Tensor, fine: Tensor | None = None, coarse: Tensor | None = None) -> Tensor:
        """(N, M, C) and, of SAM 2, (1, 16 * M, C / 8) and (1, 4 * M, C / 4) to (N, 16 * M, C / 8)."""
        norm = self._norm
        tokens = self._coarse(tokens, coarse)
        tokens = functional.layer_norm(tokens, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        return _gelu(self._fine(_gelu(tokens), fine))


class _Doubling:
    """A transposed convolution by which each token becomes a square of two by two."""

    def __init__(self, convolution: Any) -> None:
        self._channels: int = convolution.out_channels
        self._weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
        self._bias = convolution.bias.repeat(4)

    def __call__(self, tokens: Tensor, addition: Tensor | None) -> Tensor:
        """(N, M, C) to (N, 4 * M, D), and (1, 4 * M, D) is added where there is any."""
        doubled = linear(tokens, self._weight, self._bias).view(len(tokens), -1, self._channels)
        return doubled if addition is None else doubled.add_(addition)


def _in(module: Any, dtype: torch.dtype) -> Any:
    """The module, or a copy of it in another type."""
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)


def _gelu(tokens: Tensor) -> Tensor:
    """In place."""
    result: Tensor = torch.ops.aten.gelu_(tokens)
    return result


def _tokens(grid: Tensor) -> Tensor:
    """(N, C, h, w) to (N, h * w, C)."""
    return grid.flatten(2).transpose(1, 2)


def _grid(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h * w, C) to (N, C, h, w)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


def _squares(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, C, H, W) to (1, H * W, C), in the order that doublings of a (h, w) grid leave behind."""
    height, width = grid
    doublings = (features.shape[2] // height).bit_length() - 1
    twos = (2,) * doublings
    spread = features.view(1, features.shape[1], height, *twos, width, *twos)
    rows = range(2, 3 + doublings)
    order = [axis for row in rows for axis in (row, row + 1 + doublings)]
    return spread.permute(0, *order, 1).reshape(1, -1, features.shape[1])


def _pixels(logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, K, h * w * 16), in the order that two doublings leave behind, to (N, K, 4h, 4w)."""
    height, width = grid
    spread = logits.view(*logits.shape[:2], height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return spread.reshape(*logits.shape[:2], 4 * height, 4 * width)
