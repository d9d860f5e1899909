"""transformers' documented way to segment by points, boxes and masks with the descendants of SAM 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cutout_server.types import ObjectPrompt
from PIL import Image
from transformers import EdgeTamModel, Sam2Processor, Sam3TrackerModel, Sam3TrackerProcessor


class Reference:
    """A model and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor

    @torch.no_grad()
    def __call__(
        self, image: np.ndarray, prompts: Sequence[ObjectPrompt], multimask: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, C, H, W) logits at the picture's size, (N, C) scores, (N, C, h, w) logits; only one prompt has a mask."""
        asked = {}
        if len(prompts[0].points):
            asked["input_points"] = [[prompt.points.tolist() for prompt in prompts]]
            asked["input_labels"] = [[prompt.labels.tolist() for prompt in prompts]]
        if prompts[0].box:
            asked["input_boxes"] = [[[p.box.x_min, p.box.y_min, p.box.x_max, p.box.y_max] for p in prompts]]
        inputs = self.processor(images=Image.fromarray(image), return_tensors="pt", **asked)
        sizes = inputs.pop("original_sizes")
        if prompts[0].logits is not None:
            inputs["input_masks"] = torch.from_numpy(prompts[0].logits)[None, None]
        output = self.model(**inputs, multimask_output=multimask)
        upscaled = self.processor.post_process_masks(output.pred_masks, sizes, binarize=False)
        return upscaled[0].numpy(), output.iou_scores[0].numpy(), output.pred_masks[0].numpy()


def sam3_reference(folder: Path) -> Reference:
    """The tracker for pictures."""
    return Reference(*(kind.from_pretrained(folder) for kind in (Sam3TrackerModel, Sam3TrackerProcessor)))


def edgetam_reference(folder: Path) -> Reference:
    """EdgeTAM for pictures."""
    return Reference(*(kind.from_pretrained(folder) for kind in (EdgeTamModel, Sam2Processor)))
