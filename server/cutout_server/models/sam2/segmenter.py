"""The model at work, without a predictor's state: whatever an answer needs is in its own query."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cutout_server.models.bilinear import Interpolation
from cutout_server.models.corners import box_and_points
from cutout_server.models.embedding import Embedding, own_embedding
from cutout_server.models.engines import Encoder
from cutout_server.models.mask_decoder import MaskDecoder
from cutout_server.models.prompted import EngineSegmenter, on_device
from cutout_server.models.queries import DecodeQuery, Tracked, TrackQuery
from cutout_server.models.sam2.embedding import Sam2Embedding
from cutout_server.models.sam2.haste import decode_by
from cutout_server.models.sam2.tracker import Sam2Tracker
from cutout_server.types import RgbImage

# Of ImageNet's channels, as in SAM2Transforms.
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Sam2(EngineSegmenter):
    """A `Segmenter`, `GridSegmenter` and `Tracker` with the answers of the official predictors.

    These are `SAM2ImagePredictor`, `SAM2AutomaticMaskGenerator` and `SAM2VideoPredictor`.

    Its logits are (C, 256, 256), and not yet clamped: clamping moves the boundary of a mask a little, so the predictor
    upscales first, and clamps only what it hands out for the next prompt, to [-32, 32].

    Args:
        model: A `SAM2Base` in eval mode, on its device, without its encoder. Nothing of it changes afterwards.
        encoder: The encoder that was taken out of it, in the hands of an engine.
        tracker: Follows objects by the same weights.
        decoder_dtype: Of the faster mask decoder, which rounds otherwise; None has the official one answer.
    """

    def __init__(
        self, model: Any, encoder: Encoder, tracker: Sam2Tracker, *, decoder_dtype: torch.dtype | None
    ) -> None:
        super().__init__(model, encoder)
        self._tracker = tracker
        # What stands for the memory of pictures, which have none.
        no_memory = model.no_mem_embed.detach().view(1, -1, 1, 1)
        self._no_memory: Tensor = no_memory if model.directly_add_no_mem_embed else torch.zeros_like(no_memory)
        with torch.inference_mode():
            self._image_pe: Tensor = model.sam_prompt_encoder.get_dense_pe()
            self._faster = MaskDecoder(model.sam_mask_decoder, self._image_pe, decoder_dtype) if decoder_dtype else None
        if self._faster is not None:
            decode_by(model, self._faster)
        # As the decoders take them.
        self._layout = torch.channels_last if decoder_dtype else torch.contiguous_format
        self._mean, self._std = (each.to(self._device) for each in (_MEAN, _STD))

    @torch.inference_mode()
    def track(self, queries: Sequence[TrackQuery]) -> list[Tracked]:
        """Follows objects into frames; see `Tracker.track`."""
        return self._tracker.track(queries)

    def _embed(self, images: Sequence[RgbImage]) -> list[Sam2Embedding]:
        pixels = torch.cat([self._pixels(image) for image in images])
        *high_res, last = self._encoder(pixels)
        # Each embedding gets storage of its own, or one of them would keep the whole batch in memory.
        return [
            Sam2Embedding(
                image_size=(image.shape[0], image.shape[1]),
                features=last[i : i + 1].clone(),
                high_res_feats=tuple(level[i : i + 1].clone(memory_format=self._layout) for level in high_res),
            )
            for i, image in enumerate(images)
        ]

    def _pixels(self, image: RgbImage) -> Tensor:
        """(1, 3, side, side) float32; on the CPU to the bit what SAM2Transforms makes."""
        side = self._model.image_size
        pixels = on_device(image, self._device).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        square = functional.interpolate(
            pixels[None], (side, side), mode="bilinear", align_corners=False, antialias=True
        )
        return square.sub_(self._mean).div_(self._std)

    def _answer(self, queries: Sequence[DecodeQuery]) -> tuple[Tensor, Tensor]:
        model, embedding, prompts = (
            self._model,
            own_embedding(queries[0].embedding, Sam2Embedding),
            [query.prompt for query in queries],
        )
        points = None
        if len(prompts[0].points) or prompts[0].box:
            height, width = embedding.image_size
            coords, labels = (torch.from_numpy(each).to(model.device) for each in box_and_points(prompts))
            coords[..., 0] /= width
            coords[..., 1] /= height
            points = (coords * model.image_size, labels)
        masks = None
        given = [prompt.logits for prompt in prompts if prompt.logits is not None]
        if given:
            masks = torch.from_numpy(np.stack(given)[:, None]).to(model.device)
        sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=masks)
        decoder, multimask = model.sam_mask_decoder, queries[0].multimask
        image_embed = embedding.features + self._no_memory
        if self._faster is None:
            logits, predicted_iou, _, _ = decoder(
                image_embeddings=image_embed,
                image_pe=self._image_pe,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
                repeat_image=len(queries) > 1,
                high_res_features=list(embedding.high_res_feats),
            )
            return logits, predicted_iou
        falls_back = not multimask and decoder.dynamic_multimask_via_stability
        logits, predicted_iou = self._faster(
            image_embed,
            sparse,
            dense if given else dense[:1],  # Without masks it is the same for all.
            embedding.high_res_feats if decoder.use_high_res_features else (),
            masks=slice(0, None if falls_back else 1) if not multimask else slice(1, None),
        )
        if falls_back:
            logits, predicted_iou = decoder._dynamic_multimask_via_stability(logits, predicted_iou)  # noqa: SLF001
        return logits, predicted_iou

    def _interpolations(self, embedding: Embedding) -> tuple[Interpolation, ...]:
        size = own_embedding(embedding, Sam2Embedding).image_size
        return (Interpolation(size, size),)
