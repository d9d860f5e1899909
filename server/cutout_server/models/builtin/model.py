"""The built-in model behind the Protocols."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.models.base import Candidates, DecodeQuery, DetectQuery, Detection, MaskQuery, ProposeQuery
from cutout_server.models.builtin.words import VOCABULARY, concept_of
from cutout_server.types import BoolMask, Box, RgbImage


@dataclass(frozen=True)
class BuiltinEmbedding:
    """A picture at working size."""

    pixels: RgbImage = field(repr=False)
    working: RgbImage = field(repr=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self.pixels.nbytes + self.working.nbytes


class Builtin:
    """Segmenter, Proposer and Detector without weights."""

    @classmethod
    def load(cls, checkpoint: Path | None, config: str | None, device: str) -> "Builtin":  # noqa: ARG003
        """See `cutout_server.models.builtin.load`."""
        if checkpoint is not None or config is not None:
            raise FailedPreconditionError("the built-in model takes neither a checkpoint nor a config; leave both out")
        return cls()

    @property
    def nbytes(self) -> int:
        """There are no weights."""
        return 0

    def encode(self, images: Sequence[RgbImage]) -> list[BuiltinEmbedding]:
        """Scales each picture to working size."""
        out = []
        for image in images:
            scale = min(1.0, 512 / max(image.shape[:2]))
            size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
            out.append(BuiltinEmbedding(image, cv2.resize(image, size, interpolation=cv2.INTER_AREA)))
        return out

    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """GrabCut at working size."""
        return [self._decode(query) for query in queries]

    def _decode(self, query: DecodeQuery) -> Candidates:
        embedding = query.embedding
        assert isinstance(embedding, BuiltinEmbedding)
        work, prompt = embedding.working, query.prompt
        height, width = work.shape[:2]
        scale = np.array([width / embedding.image_size[1], height / embedding.image_size[0]])
        mask = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
        if prompt.box is not None:
            mask[:] = cv2.GC_BGD
            x0, y0 = np.floor(np.array([prompt.box.x_min, prompt.box.y_min]) * scale).astype(int)
            x1, y1 = np.ceil(np.array([prompt.box.x_max, prompt.box.y_max]) * scale).astype(int)
            mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = cv2.GC_PR_FGD
        if prompt.logits is not None:
            prior = cv2.resize(prompt.logits, (width, height)) > 0
            mask[prior & (mask != cv2.GC_BGD)] = cv2.GC_PR_FGD
        for (x, y), label in zip(prompt.points * scale, prompt.labels, strict=True):
            value = cv2.GC_FGD if label else cv2.GC_BGD
            cv2.circle(mask, (int(min(x, width - 1)), int(min(y, height - 1))), 3, value, -1)
        inside = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
        if inside.any() and not inside.all():
            background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
            cut = mask.copy()
            cv2.grabCut(work, cut, None, background, foreground, 4, cv2.GC_INIT_WITH_MASK)
            found = (cut == cv2.GC_FGD) | (cut == cv2.GC_PR_FGD)
            inside = found if found.any() else inside
        logits = cv2.GaussianBlur(np.where(inside, 4.0, -4.0).astype(np.float32), (0, 0), 1)
        count = 3 if query.multimask else 1
        return Candidates(np.repeat(logits[None], count, 0), np.linspace(0.7, 0.6, count, dtype=np.float32))

    def masks(self, queries: Sequence[MaskQuery]) -> list[BoolMask]:
        """Resizes bilinearly."""
        return [
            cv2.resize(q.logits, q.embedding.image_size[::-1], interpolation=cv2.INTER_LINEAR) > q.threshold
            for q in queries
        ]

    def propose(self, queries: Sequence[ProposeQuery]) -> list[Candidates]:
        """A grid of boxes."""
        out = []
        for query in queries:
            h, w = query.embedding.image_size
            full = [
                DecodeQuery(query.embedding, _box_prompt(x * w / 3, y * h / 3, (x + 1) * w / 3, (y + 1) * h / 3), False)
                for y in range(3)
                for x in range(3)
            ]
            found = self.decode(full)
            out.append(
                Candidates(np.concatenate([f.logits for f in found]), np.concatenate([f.predicted_iou for f in found]))
            )
        return out

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        """Faces only, for the moment."""
        out = []
        for query in queries:
            found = []
            for index, phrase in enumerate(query.phrases):
                if concept_of(phrase) is None:
                    raise InvalidRequestError.of(
                        f"phrases[{index}]", f"the built-in model knows only: {', '.join(VOCABULARY)}"
                    )
                cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
                grey = cv2.cvtColor(query.pixels, cv2.COLOR_RGB2GRAY)
                found += [
                    Detection(Box(float(x), float(y), float(x + w), float(y + h)), 0.6, index)
                    for x, y, w, h in cascade.detectMultiScale(grey, 1.1, 5)
                ]
            out.append(found)
        return out


def _box_prompt(x0: float, y0: float, x1: float, y1: float) -> "ObjectPrompt":
    from cutout_server.types import ObjectPrompt

    return ObjectPrompt(box=Box(x0, y0, x1, y1))
