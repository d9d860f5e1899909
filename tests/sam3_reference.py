"""transformers' documented way to find concepts with SAM 3."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cutout_server.types import Exemplar
from PIL import Image
from transformers import Sam3Model, Sam3Processor


@dataclass(frozen=True)
class Instance:
    """One find: its box in pixels (x_min, y_min, x_max, y_max), and its mask, (H, W) bool."""

    box: tuple[float, ...]
    score: float
    mask: np.ndarray


class Reference:
    """`Sam3Model` with `Sam3Processor`, one phrase at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = Sam3Model.from_pretrained(folder).eval()
        self.processor = Sam3Processor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(
        self, image: np.ndarray, phrase: str | None, threshold: float, exemplars: Sequence[Exemplar] = ()
    ) -> list[Instance]:
        """What `post_process_instance_segmentation` makes of it."""
        asked = {}
        if exemplars:
            boxes = [each.box for each in exemplars]
            asked["input_boxes"] = [[[box.x_min, box.y_min, box.x_max, box.y_max] for box in boxes]]
            asked["input_boxes_labels"] = [[int(each.positive) for each in exemplars]]
        inputs = self.processor(images=Image.fromarray(image), text=phrase, return_tensors="pt", **asked)
        sizes = inputs.pop("original_sizes").tolist()
        (answer,) = self.processor.post_process_instance_segmentation(
            self.model(**inputs), threshold=threshold, mask_threshold=0.5, target_sizes=sizes
        )
        found = zip(answer["boxes"].tolist(), answer["scores"].tolist(), answer["masks"].numpy() > 0, strict=True)
        return [Instance(tuple(box), score, mask) for box, score, mask in found]
