"""CLIP, SigLIP and SigLIP 2 of a fixed resolution through transformers: pictures and texts in one space.

The papers: https://arxiv.org/abs/2103.00020, https://arxiv.org/abs/2303.15343, https://arxiv.org/abs/2502.14786.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoProcessor, CLIPModel, PreTrainedModel, SiglipModel

from cutout_server.models.engines import EXACT, Encoder, Runtime, prepare
from cutout_server.models.pretrained import folder_of, load_model, load_processor, nbytes
from cutout_server.models.tokens import check_texts, check_tokenizer
from cutout_server.types import Features, ModelFiles, RgbImage

_KINDS: dict[str, type[PreTrainedModel]] = {"clip": CLIPModel, "siglip": SiglipModel}
_PER_PASS = 32  # Pictures or texts; bounds the memory.
_NARROW = 256  # A picture whose sides differ by more is cut before it is scaled up.


def load(files: ModelFiles, device: str, runtime: Runtime = EXACT) -> "Clip":
    """Loads a classifier.

    Args:
        files: The checkpoint is a folder as `save_pretrained` writes it, with the processor's files; SigLIP 2 of a
            fixed resolution is of model_type "siglip" too.
        device: "cpu", "cuda:0" ...
        runtime: What runs the picture's half.

    Raises:
        FailedPreconditionError: The folder or the export cannot be used, or there is no such device.
    """
    folder = folder_of(files, _KINDS)
    kind = _KINDS[json.loads((folder / "config.json").read_text("utf-8"))["model_type"]]
    processor = load_processor(AutoProcessor, folder)
    model = load_model(kind, folder, device)
    check_tokenizer(processor.tokenizer, model.config.text_config.vocab_size)
    side = model.config.vision_config.image_size
    encoder = prepare(_Pictures(model), torch.zeros(1, 3, side, side, device=model.device), runtime)
    del model.vision_model  # The engine may have converted its weights, or dropped them.
    if hasattr(model, "visual_projection"):
        del model.visual_projection
    return Clip(model, processor, encoder)


class _Pictures(nn.Module):
    """The half of a model that looks at pictures."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.projection: nn.Module = getattr(model, "visual_projection", nn.Identity())
        self.eval()

    def extra_repr(self) -> str:
        """What the shapes of the weights do not tell of the form, for exports to be told apart by."""
        return str(self.vision_model.config)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """(B, 3, S, S) to (B, D) of any length."""
        return (self.projection(self.vision_model(pixel_values=pixels).pooler_output),)


class Clip:
    """A `Classifier` whose logits are those that `CLIPModel` and `SiglipModel` give with their own processors.

    SigLIP adds a bias to every logit of a picture and asks a sigmoid whether text and picture belong together. The
    softmax over texts, which says what the picture shows best, does not change with the bias, and so it is left out.

    Texts go to the tokenizer as they are. SigLIP 2 was trained with lower case; folders that name a GemmaTokenizer do
    not lower it themselves.

    Args:
        model: In eval mode, on its device, without the half that looks at pictures. Nothing of it changes afterwards.
        processor: The folder's own.
        encoder: The half that looks at pictures, in the hands of an engine.
    """

    def __init__(self, model: Any, processor: Any, encoder: Encoder) -> None:
        self._model = model
        self._encoder = encoder
        self._images = processor.image_processor
        self._tokenizer = processor.tokenizer
        self._limit: int = model.config.text_config.max_position_embeddings
        # SigLIP was trained with every text padded to the full length, and reads the padding too.
        self._padding = "max_length" if isinstance(model, SiglipModel) else "longest"

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return nbytes(self._model) + self._encoder.nbytes

    @torch.inference_mode()
    def embed_pictures(self, images: Sequence[RgbImage]) -> list[Features]:
        """(D,) float32 of unit length for each picture, (H, W, 3) uint8 RGB of any size."""
        features: list[Features] = []
        size = _PER_PASS if self._encoder.batches else 1
        for start in range(0, len(images), size):
            pixels = torch.cat([self._pixels(image) for image in images[start : start + size]])
            (embedded,) = self._encoder(pixels.to(self._model.device))
            features += _rows(functional.normalize(embedded, dim=-1))
        return features

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> list[Features]:
        """(D,) float32 for each text, of such a length that its dot product with a picture's features is the logit.

        Raises:
            InvalidRequestError: A text is longer than the model can read: 77 tokens for CLIP, 64 for SigLIP.
        """
        check_texts(self._tokenizer, texts, self._limit, lambda _: "concepts")
        features: list[Features] = []
        for start in range(0, len(texts), _PER_PASS):
            tokens = self._tokenizer(
                list(texts[start : start + _PER_PASS]),
                padding=self._padding,
                max_length=self._limit if self._padding == "max_length" else None,
                return_tensors="pt",
            )
            answer = self._model.get_text_features(**tokens.to(self._model.device))
            features += _rows(functional.normalize(answer.pooler_output, dim=-1) * self._model.logit_scale.exp())
        return features

    def _pixels(self, image: RgbImage) -> Tensor:
        """(1, 3, side, side) float32; one picture at a time, so that large ones are not in memory together."""
        if self._images.size.shortest_edge and getattr(self._images, "do_center_crop", False):
            image = _without_ends(image, self._images.size.shortest_edge)
        # A writeable copy, as torch takes no other; said to be channels last, as 3 pixels of height look like channels.
        pixels = np.array(image, order="C")
        answer = self._images([pixels], input_data_format="channels_last", return_tensors="pt")
        values: Tensor = answer["pixel_values"]
        return values


def _without_ends(image: RgbImage, edge: int) -> RgbImage:
    """The middle of a very narrow picture, of which the processor's centre crop is the same as of the whole.

    Scaled up until its short side is `edge` pixels, a picture of 1 x 60000 would take gigabytes, of which the centre
    crop keeps a square.
    """
    short, long = sorted(image.shape[:2])
    if long <= _NARROW * short:
        return image
    scaled = edge * long // short
    # Cut so that the middle stays in the middle, before and after scaling, and with the scale that is most alike.
    lengths = (
        length for length in range(64 * short + long % 2, 128 * short, 2) if (edge * length // short - scaled) % 2 == 0
    )
    length = min(lengths, key=lambda each: abs(edge * each // short / each - scaled / long))
    start = (long - length) // 2
    return image[:, start : start + length] if image.shape[1] == long else image[start : start + length]


def _rows(batch: Tensor) -> list[Features]:
    """Each row with memory of its own, so that one does not keep the whole batch."""
    return [row.copy() for row in batch.float().cpu().numpy()]
