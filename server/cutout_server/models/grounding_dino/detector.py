"""The model at work: pictures of one size together, each with its own phrases. Both runtimes answer through this."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torchvision.ops import box_convert  # type: ignore[import-untyped]

from cutout_server.models.embedding import own_embedding
from cutout_server.models.grounding_dino.prompts import NOBODY, Prompt, Prompter
from cutout_server.models.queries import Detection, DetectQuery
from cutout_server.models.rows import own_rows
from cutout_server.types import Box, RgbImage

T = TypeVar("T")

_PER_PASS = 4  # Pictures; bounds the memory.


class Network(Protocol):
    """A runtime of the model."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...

    @property
    def mixes_prompts(self) -> bool:
        """Whether a pass may hold other prompts for other pictures."""
        ...

    def look(self, pixels: Tensor) -> Sequence[Tensor]:
        """What can be made of pictures before there are prompts; all of it, or nothing and so the pixels themselves.

        Args:
            pixels: (N, 3, h, w) float32 on its device.

        Returns:
            (N, ...) each.
        """
        ...

    def __call__(self, levels: Sequence[Tensor], prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Looks for what the prompts say.

        Args:
            levels: Of N pictures, from `look`.
            prompts: N of them.

        Returns:
            logits: (N, Q, T) of each query for each token, T at least as many as the longest prompt has.
            boxes: (N, Q, 4), centre and size, relative to the picture.
        """
        ...


@dataclass(frozen=True, eq=False)
class PictureLevels:
    """A picture before there are words, on the network's device.

    Attributes:
        image_size: (height, width) in pixels.
        levels: (1, ...) each, from the network's `look`.
    """

    image_size: tuple[int, int]
    levels: tuple[Tensor, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(level.untyped_storage().nbytes() for level in self.levels)


@dataclass(frozen=True)
class _Pass:
    """One prompt on one picture: which query's, and which of its prompts."""

    query: int
    part: int
    levels: tuple[Tensor, ...]
    prompt: Prompt


class GroundingDino:
    """A `Detector` whose boxes and scores are those of the reference.

    The phrases of a query go into one prompt, or into as few as the model's limit of tokens allows. Each of the model's
    queries proposes a box and says how well each token of the prompt fits it, as a logit:

    - The score is the sigmoid of the highest logit over all tokens, marks included, as in the reference.
    - The box is kept when its score exceeds `box_threshold`, as in the reference, and `text_threshold` as well: for
      others the reference gives no words.
    - Its phrase is the one whose own tokens, marks excluded, hold the highest logit; it is found for each of those that
      the model reads the same.

    So one phrase alone gets every box of the reference whose score exceeds both thresholds; several phrases share
    those of the reference out among them, where the reference would join the words of all that match. Boxes are in the
    order of the model's queries, not clipped to the picture, and several may lie on one object, as in the reference.

    Only pictures that have the same size once prepared share a pass: padding would change the answers, as the
    backbone's windows reach across the border. On a CPU each has its own, which is as fast. With the official package
    they must have the same prompt as well.

    Args:
        network: In eval mode, on its device. Nothing of it changes afterwards.
        prompter: For its tokenizer and limit.
        prepare: A picture, (H, W, 3) uint8 RGB, as the (3, h, w) float32 that the network looks at.
    """

    def __init__(self, network: Network, prompter: Prompter, prepare: Callable[[RgbImage], Tensor]) -> None:
        self._network = network
        self._prompter = prompter
        self._prepare = prepare
        self._per_pass = 1 if network.device.type == "cpu" else _PER_PASS

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return self._network.nbytes

    @torch.inference_mode()
    def image_features(self, images: Sequence[RgbImage]) -> list[PictureLevels]:
        """Pictures before there are words; those of one size together.

        Raises:
            InvalidRequestError: A picture is too narrow.
        """
        prepared = [self._prepare(image) for image in images]
        seen: list[tuple[Tensor, ...]] = [()] * len(images)
        for group in self._joined((index, each.shape) for index, each in enumerate(prepared)):
            levels = self._network.look(torch.stack([prepared[index] for index in group]).to(self._network.device))
            for index, own in zip(group, zip(*map(own_rows, levels), strict=True), strict=True):
                seen[index] = own
        return [PictureLevels((image.shape[0], image.shape[1]), own) for image, own in zip(images, seen, strict=True)]

    @torch.inference_mode()
    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        """Finds the phrases; nothing found is an empty list.

        Raises:
            InvalidRequestError: A phrase holds no word that the model knows or more than it can read.
            TypeError: An embedding is of another family.
        """
        prompts = [self._prompter.prompts(query.phrases) for query in queries]
        answers: list[list[list[Detection]]] = [[[] for _ in own] for own in prompts]
        asked = [
            _Pass(index, part, own_embedding(query.embedding, PictureLevels).levels, prompt)
            for index, query in enumerate(queries)
            for part, prompt in enumerate(prompts[index])
        ]
        for passes in self._joined((each, self._form(each)) for each in asked):
            levels = [torch.cat(of_all) for of_all in zip(*(each.levels for each in passes), strict=True)]
            logits, boxes = self._network(levels, [each.prompt for each in passes])
            for each, own_logits, own_boxes in zip(passes, logits.float().cpu(), boxes.float().cpu(), strict=True):
                found = _detections(own_logits, own_boxes, each.prompt, queries[each.query])
                answers[each.query][each.part] = found
        return [list(chain.from_iterable(parts)) for parts in answers]

    def _form(self, each: _Pass) -> Hashable:
        """What those that share a pass have in common."""
        return (*(level.shape for level in each.levels), None if self._network.mixes_prompts else each.prompt.ids)

    def _joined(self, each_with_form: Iterable[tuple[T, Hashable]]) -> Iterator[list[T]]:
        """Those of one form together, as many as a pass takes."""
        waiting: dict[Hashable, list[T]] = {}
        for each, form in each_with_form:
            together = waiting.setdefault(form, [])
            together.append(each)
            if len(together) == self._per_pass:
                yield waiting.pop(form)
        yield from waiting.values()


def _detections(logits: Tensor, boxes: Tensor, prompt: Prompt, query: DetectQuery) -> list[Detection]:
    height, width = query.embedding.image_size
    logits = logits[:, : len(prompt.ids)]
    scores = logits.amax(dim=-1).sigmoid()
    kept = scores > max(query.box_threshold, query.text_threshold)
    owned = [place for place, owners in enumerate(prompt.owners) if owners != NOBODY]
    best = logits[kept][:, owned].argmax(dim=-1)
    corners = box_convert(boxes[kept], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    return [
        Detection(Box(*box), score, phrase)
        for box, score, token in zip(corners.tolist(), scores[kept].tolist(), best.tolist(), strict=True)
        for phrase in prompt.owners[owned[token]]
    ]


def padded(prompts: Sequence[Prompt], device: torch.device) -> tuple[Tensor, Tensor]:
    """The prompts as one batch, padded with 0.

    Returns:
        ids: (N, T) int64.
        mask: (N, T) int64, 1 for tokens and 0 for padding.
    """
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[*prompt.ids, *[0] * (length - len(prompt.ids))] for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=device)
    return ids, (torch.arange(length, device=device) < lengths[:, None]).long()
