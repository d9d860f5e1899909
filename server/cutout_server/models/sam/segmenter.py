"""The model at work, without a predictor's state: whatever an answer needs is in its own query."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cutout_server.models.bilinear import Interpolation
from cutout_server.models.embedding import Embedding, own_embedding
from cutout_server.models.engines import Encoder
from cutout_server.models.mask_decoder import MaskDecoder
from cutout_server.models.prompted import EngineSegmenter
from cutout_server.models.queries import DecodeQuery
from cutout_server.models.sam import longest_side
from cutout_server.types import RgbImage


@dataclass(frozen=True, eq=False)
class SamEmbedding:
    """A picture after the encoder, on the model's device.

    Attributes:
        image_size: (height, width) in pixels.
        features: (1, C, 64, 64) float32.
    """

    image_size: tuple[int, int]
    features: Tensor = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self.features.untyped_storage().nbytes()


class Sam(EngineSegmenter):
    """A `Segmenter` and `GridSegmenter` that answers as `SamPredictor` and `SamAutomaticMaskGenerator` do.

    Its logits are (C, 256, 256), over the padded square that the encoder looks at.

    Args:
        model: A `segment_anything.modeling.Sam` in eval mode, on its device, without its encoder. Nothing of it changes
            afterwards.
        encoder: The encoder that was taken out of it, in the hands of an engine.
        decoder_dtype: Of the faster mask decoder, which rounds otherwise; None has the official one answer.
    """

    def __init__(self, model: Any, encoder: Encoder, *, decoder_dtype: torch.dtype | None) -> None:
        super().__init__(model, encoder)
        self._side: int = model.prompt_encoder.input_image_size[0]
        with torch.inference_mode():
            self._image_pe: Tensor = model.prompt_encoder.get_dense_pe()
            self._faster = MaskDecoder(model.mask_decoder, self._image_pe, decoder_dtype) if decoder_dtype else None

    def _embed(self, images: Sequence[RgbImage]) -> list[SamEmbedding]:
        (features,) = self._encoder(torch.cat([self._pixels(image) for image in images]))
        return [
            SamEmbedding(image_size=(image.shape[0], image.shape[1]), features=features[i : i + 1].clone())
            for i, image in enumerate(images)
        ]

    def _pixels(self, image: RgbImage) -> Tensor:
        """(1, 3, side, side) float32 on the device; to the bit what `ResizeLongestSide` and `Sam.preprocess` make."""
        height, width = longest_side.resized((image.shape[0], image.shape[1]), self._side)
        picture = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).to(self._device).permute(2, 0, 1)
        normalised = (pixels - self._model.pixel_mean) / self._model.pixel_std
        return functional.pad(normalised, (0, self._side - width, 0, self._side - height))[None]

    def _answer(self, queries: Sequence[DecodeQuery]) -> tuple[Tensor, Tensor]:
        model, embedding, prompts = (
            self._model,
            own_embedding(queries[0].embedding, SamEmbedding),
            [query.prompt for query in queries],
        )
        size, side = embedding.image_size, self._side
        points = boxes = masks = None
        if len(prompts[0].points):
            coords = self._stack([longest_side.points(prompt, size, side) for prompt in prompts])
            points = (coords, self._stack([prompt.labels for prompt in prompts]))
        if prompts[0].box:
            boxes = self._stack([longest_side.corners(prompt, size, side) for prompt in prompts])
        given = [prompt.logits for prompt in prompts if prompt.logits is not None]
        if given:
            masks = self._stack(given)[:, None]
        sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=masks)
        if self._faster is None:
            logits, predicted_iou = model.mask_decoder(
                image_embeddings=embedding.features,
                image_pe=self._image_pe,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=queries[0].multimask,
            )
            return logits, predicted_iou
        return self._faster(
            embedding.features,
            sparse,
            dense if given else dense[:1],  # Without masks it is the same for all.
            masks=slice(1, None) if queries[0].multimask else slice(0, 1),
        )

    def _interpolations(self, embedding: Embedding) -> tuple[Interpolation, ...]:
        return longest_side.interpolations(own_embedding(embedding, SamEmbedding).image_size, self._side)

    def _stack(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self._device)
