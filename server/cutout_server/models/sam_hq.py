"""SAM-HQ through transformers (https://arxiv.org/abs/2306.01567): SAM 1 with a token for finer borders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import SamHQModel, SamHQProcessor

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.bilinear import Interpolation
from cutout_server.models.embedding import Embedding, own_embedding
from cutout_server.models.engines import EXACT, Encoder, Runtime, prepare
from cutout_server.models.engines.vit import of_sam_hq
from cutout_server.models.pretrained import folder_of, load_model, load_processor
from cutout_server.models.prompted import EngineSegmenter
from cutout_server.models.queries import DecodeQuery
from cutout_server.models.sam import longest_side
from cutout_server.types import LOW_RES, ModelFiles, ObjectPrompt, RgbImage

_SIDE = 1024


def load(files: ModelFiles, device: str, runtime: Runtime = EXACT) -> "SamHq":
    """Loads a model.

    Args:
        files: The checkpoint is a folder as `save_pretrained` writes it, with the processor's files.
        device: "cpu", "cuda:0" ...
        runtime: What runs the encoder.

    Raises:
        FailedPreconditionError: The folder or the export cannot be used, or there is no such device.
    """
    folder = folder_of(files, ["sam_hq"])
    images = load_processor(SamHQProcessor, folder).image_processor
    # The file holds the tensor twice, or once: it is one.
    model = load_model(SamHQModel, folder, device, optional=["prompt_encoder.shared_embedding."])
    vision: Any = model.config.vision_config
    steps = ("do_resize", "do_rescale", "do_normalize", "do_pad")
    sides = {images.size.longest_edge, images.pad_size.height, images.pad_size.width, vision.image_size}
    if not all(getattr(images, step) for step in steps) or sides != {_SIDE}:
        raise FailedPreconditionError(
            f"checkpoint {folder} prepares pictures for another model: expected preprocessor_config.json to say "
            f"{', '.join(steps)} and a size of {_SIDE}; download the whole folder"
        )
    if 4 * (_SIDE // vision.patch_size) != LOW_RES:
        raise FailedPreconditionError(f"checkpoint {folder}: patch_size must be 16, got {vision.patch_size}")
    encoder = of_sam_hq(model.vision_encoder)
    del model.vision_encoder  # The engine may convert its weights, or drop them.
    example = torch.zeros(1, 3, _SIDE, _SIDE, device=model.device)
    return SamHq(model, images, prepare(encoder, example, runtime))


@dataclass(frozen=True, eq=False)
class SamHqEmbedding:
    """A picture after the encoder, on the model's device.

    Attributes:
        image_size: (height, width) in pixels.
        features: (1, 256, 64, 64) float32.
        early: (1, 64, 64, D) float32 of the first block that looks at the whole picture, for the finer borders.
    """

    image_size: tuple[int, int]
    features: Tensor = field(repr=False)
    early: Tensor = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in (self.features, self.early))


class SamHq(EngineSegmenter):
    """A `Segmenter` and `GridSegmenter` that answers as `SamHQProcessor` and `SamHQModel` do.

    Its logits are (C, 256, 256), over the padded square that the encoder looks at.

    Args:
        model: In eval mode, on its device, without its encoder. Nothing of it changes afterwards.
        images: The folder's own image processor.
        encoder: The encoder that was taken out of the model, in the hands of an engine.
    """

    def __init__(self, model: Any, images: Any, encoder: Encoder) -> None:
        super().__init__(model, encoder)
        self._images = images

    def _embed(self, images: Sequence[RgbImage]) -> list[SamHqEmbedding]:
        pixels = torch.cat([self._pixels(image) for image in images]).to(self._device)
        features, early = self._encoder(pixels)
        return [
            SamHqEmbedding(
                image_size=(image.shape[0], image.shape[1]),
                features=features[i : i + 1].clone(),
                early=early[i : i + 1].clone(),
            )
            for i, image in enumerate(images)
        ]

    def _pixels(self, image: RgbImage) -> Tensor:
        """(1, 3, 1024, 1024) float32."""
        short, long = sorted(image.shape[:2])
        # The processor would leave no pixel of the narrowest pictures' short side.
        times = math.ceil(long / (2 * _SIDE * short))
        picture = np.repeat(image, times, axis=int(np.argmin(image.shape[:2]))) if times > 1 else np.array(image)
        answer = self._images([picture], input_data_format="channels_last", return_tensors="pt")
        values: Tensor = answer["pixel_values"]
        return values

    def _answer(self, queries: Sequence[DecodeQuery]) -> tuple[Tensor, Tensor]:
        if queries[0].prompt.logits is not None and len(queries) > 1:
            # The model takes one mask for each picture.
            logits, scores = zip(*(self._answer([query]) for query in queries), strict=True)
            return torch.cat(logits), torch.cat(scores)
        embedding, prompts = own_embedding(queries[0].embedding, SamHqEmbedding), [query.prompt for query in queries]
        answer = self._model(
            image_embeddings=embedding.features,
            intermediate_embeddings=[embedding.early],
            multimask_output=queries[0].multimask,
            **self._prompts(prompts, embedding.image_size),
        )
        return answer.pred_masks[0], answer.iou_scores[0]

    def _prompts(self, prompts: Sequence[ObjectPrompt], size: tuple[int, int]) -> dict[str, Tensor]:
        """The model's arguments, (1, N, ...) each."""
        arrays: dict[str, list[Any]] = {}
        if len(prompts[0].points):
            arrays["input_points"] = [longest_side.points(prompt, size, _SIDE) for prompt in prompts]
            arrays["input_labels"] = [prompt.labels for prompt in prompts]
        if prompts[0].box:
            arrays["input_boxes"] = [longest_side.corners(prompt, size, _SIDE) for prompt in prompts]
        if prompts[0].logits is not None:
            arrays["input_masks"] = [prompt.logits for prompt in prompts]
        return {name: torch.from_numpy(np.stack(each)[None]).to(self._device) for name, each in arrays.items()}

    def _interpolations(self, embedding: Embedding) -> tuple[Interpolation, ...]:
        return longest_side.interpolations(own_embedding(embedding, SamHqEmbedding).image_size, _SIDE)
