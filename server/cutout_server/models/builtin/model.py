"""The built-in model behind the Protocols."""

from collections.abc import Sequence

import cv2

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.base import (
    Candidates,
    DecodeQuery,
    Detection,
    DetectQuery,
    Embedding,
    MaskQuery,
    ModelFiles,
    ProposeQuery,
)
from cutout_server.models.builtin.decode import decode
from cutout_server.models.builtin.detect import Detectors
from cutout_server.models.builtin.embedding import BuiltinEmbedding, embed
from cutout_server.models.builtin.propose import propose
from cutout_server.models.builtin.refine import refine
from cutout_server.types import MaskPatch, RgbImage


class Builtin:
    """Segmenter, Proposer and Detector without weights. It keeps nothing between calls and draws nothing at random."""

    @classmethod
    def load(cls, files: ModelFiles) -> "Builtin":
        """See `cutout_server.models.builtin.load`."""
        if files != ModelFiles():
            raise FailedPreconditionError(
                "the built-in model has no weights: expected neither checkpoint, config nor companions"
            )
        if not hasattr(cv2, "CascadeClassifier"):
            raise FailedPreconditionError(
                f"the built-in model needs OpenCV 4, which has the cascades; this is OpenCV {cv2.__version__}: "
                "install opencv-python-headless below version 5"
            )
        return cls()

    def __init__(self) -> None:
        self._detectors = Detectors()

    @property
    def nbytes(self) -> int:
        """There are no weights."""
        return 0

    def encode(self, images: Sequence[RgbImage]) -> list[BuiltinEmbedding]:
        """Builds each picture's tree of regions."""
        return [embed(image) for image in images]

    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """Decodes each prompt; logits are in [-16, 16], their size depends on the object's.

        With multimask, a box gives what is most likely, then less and more of it; clicks give three sizes, the
        likeliest first.
        """
        return [decode(_own(query.embedding), query.prompt, query.multimask) for query in queries]

    def masks(self, queries: Sequence[MaskQuery]) -> list[MaskPatch]:
        """Brings logits to the picture's size and its edges."""
        return [MaskPatch.of(refine(_own(query.embedding).pixels, query.logits, query.threshold)) for query in queries]

    def propose(self, queries: Sequence[ProposeQuery]) -> list[Candidates]:
        """Proposes what stands out in each picture, the likeliest first."""
        return [propose(_own(query.embedding), query.points_per_side) for query in queries]

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        """Finds the words of `words.VOCABULARY`; see `Detector.detect`."""
        return [self._detectors.find(query) for query in queries]


def _own(embedding: Embedding) -> BuiltinEmbedding:
    if not isinstance(embedding, BuiltinEmbedding):
        raise TypeError(f"expected an embedding of the built-in model, got {type(embedding).__name__}")
    return embedding
