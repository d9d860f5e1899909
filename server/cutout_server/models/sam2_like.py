"""What transformers' descendants of SAM 2 share: the tracker of SAM 3, EdgeTAM."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.bilinear import Interpolation
from cutout_server.models.embedding import Embedding, own_embedding
from cutout_server.models.prompted import PromptedSegmenter
from cutout_server.models.queries import DecodeQuery, Tracked, TrackQuery
from cutout_server.models.rows import own_rows
from cutout_server.models.sam2_like_embedding import Sam2LikeEmbedding
from cutout_server.models.sam2_like_tracker import Sam2LikeTracker
from cutout_server.types import ObjectPrompt, RgbImage


class Sam2Like(PromptedSegmenter):
    """A `Segmenter`, `GridSegmenter` and `Tracker` that answers as the models do with their processors.

    Its logits are (C, side / 4, side / 4), `side` being that of the square which pictures are stretched to times 16 and
    divided by the patch size; mask prompts of any other size are resized by the model itself.

    Args:
        model: In eval mode, on its device. Nothing of it changes afterwards.
        images: The folder's own image processor.
        tracker: Follows objects by the same weights; None where the files are for pictures alone.
    """

    def __init__(self, model: Any, images: Any, tracker: Sam2LikeTracker | None) -> None:
        super().__init__(model)
        self._images = images
        self._tracker = tracker
        self._side: int = images.size.height

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return super().nbytes + (self._tracker.nbytes if self._tracker else 0)

    @torch.inference_mode()
    def track(self, queries: Sequence[TrackQuery]) -> list[Tracked]:
        """Follows objects into frames; see `Tracker.track`.

        Raises:
            FailedPreconditionError: The files are for pictures alone.
        """
        if self._tracker is None:
            raise FailedPreconditionError("the checkpoint is for pictures alone: use the folder of the video model")
        return self._tracker.track(queries)

    def _embed(self, images: Sequence[RgbImage]) -> Sequence[Sam2LikeEmbedding]:
        levels = self._levels_of(pixels_of(images, self._images).to(self._device))
        rows = zip(images, zip(*map(own_rows, levels), strict=True), strict=True)
        return [Sam2LikeEmbedding((image.shape[0], image.shape[1]), own) for image, own in rows]

    def _levels_of(self, seen: Tensor) -> list[Tensor]:
        """(B, C, h, w) each of what the vision encoder takes."""
        levels = self._model.get_image_features(seen, return_dict=True).fpn_hidden_states
        # SAM 3 makes a coarser one, which the model leaves out, too.
        levels_and_sizes = zip(levels, self._model.backbone_feature_sizes, strict=False)
        return [flat.permute(1, 2, 0).unflatten(2, size) for flat, size in levels_and_sizes]

    def _unremembering(self, last: Tensor) -> Tensor:
        """The coarsest level of a picture, which has nothing before it."""
        with_token: Tensor = last + self._model.no_memory_embedding.view(1, -1, 1, 1)
        return with_token

    def _answer(self, queries: Sequence[DecodeQuery]) -> tuple[Tensor, Tensor]:
        embedding, prompts = own_embedding(queries[0].embedding, Sam2LikeEmbedding), [query.prompt for query in queries]
        *fine, last = embedding.levels
        # Each prompt is an entry of the batch: beside others of one picture, the model would take no mask.
        answer = self._model(
            image_embeddings=[level.expand(len(queries), -1, -1, -1) for level in (*fine, self._unremembering(last))],
            multimask_output=queries[0].multimask,
            **self._prompts(prompts, embedding.image_size),
        )
        return answer.pred_masks[:, 0], answer.iou_scores[:, 0]

    def _prompts(self, prompts: Sequence[ObjectPrompt], size: tuple[int, int]) -> dict[str, Tensor]:
        """The model's arguments, (N, 1, ...) each."""
        height, width = size
        # As the processors do: in float32, by factors that were divided in float64.
        scale = torch.tensor([self._side / width, self._side / height], dtype=torch.float32)
        arguments: dict[str, Tensor] = {}
        if len(prompts[0].points):
            points = torch.from_numpy(np.stack([prompt.points for prompt in prompts])[:, None])
            arguments["input_points"] = points * scale
            arguments["input_labels"] = torch.from_numpy(np.stack([prompt.labels for prompt in prompts])[:, None])
        boxes = [prompt.box for prompt in prompts if prompt.box]
        if boxes:
            corners = [[[box.x_min, box.y_min, box.x_max, box.y_max]] for box in boxes]
            arguments["input_boxes"] = torch.tensor(corners, dtype=torch.float32) * scale.repeat(2)
        masks = [prompt.logits for prompt in prompts if prompt.logits is not None]
        if masks:
            arguments["input_masks"] = torch.from_numpy(np.stack(masks)[:, None])
        return {name: tensor.to(self._device) for name, tensor in arguments.items()}

    def _interpolations(self, embedding: Embedding) -> tuple[Interpolation, ...]:
        size = own_embedding(embedding, Sam2LikeEmbedding).image_size
        return (Interpolation(size, size),)


def pixels_of(images: Sequence[RgbImage], processor: Any) -> Tensor:
    """(B, 3, side, side) float32 on the CPU; one picture at a time, so that large ones are not in memory together."""
    # Writeable copies, as torch takes no others; said to be channels last, as 3 pixels of height look like channels.
    prepared = (
        processor([np.array(image, order="C")], input_data_format="channels_last", return_tensors="pt")
        for image in images
    )
    return torch.cat([each["pixel_values"] for each in prepared])


def check_images(images: Any, side: int, folder: Path) -> None:
    """Makes sure that the image processor is the model's own.

    Raises:
        FailedPreconditionError: It makes other pictures than squares of that side.
    """
    steps = ("do_resize", "do_rescale", "do_normalize")
    if not all(getattr(images, step) for step in steps) or (images.size.height, images.size.width) != (side, side):
        raise FailedPreconditionError(
            f"checkpoint {folder} prepares pictures for another model: expected its processor's settings to say "
            f"{', '.join(steps)} and a size of {side}; download the whole folder"
        )
