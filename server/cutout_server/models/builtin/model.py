"""The built-in model behind the Protocols."""

from collections.abc import Sequence

import cv2

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.builtin.decode import decode
from cutout_server.models.builtin.detect import BuiltinFeatures, Detectors
from cutout_server.models.builtin.embedding import BuiltinEmbedding, embed
from cutout_server.models.builtin.network import Network
from cutout_server.models.builtin.propose import propose
from cutout_server.models.builtin.tracking import BuiltinTracker
from cutout_server.models.builtin.upscale import full_size, upscaled
from cutout_server.models.embedding import own_embedding
from cutout_server.models.exclusive import exclusive
from cutout_server.models.queries import (
    Candidates,
    DecodeQuery,
    Detection,
    DetectQuery,
    MaskQuery,
    ProposeQuery,
    Tracked,
    TrackQuery,
)
from cutout_server.types import MaskPatch, ModelFiles, RgbImage, Rle


class Builtin:
    """Segmenter, Proposer, Detector and Tracker with weights of its own.

    It keeps nothing between calls but what it found in a picture, with the picture.
    """

    @classmethod
    def load(cls, files: ModelFiles) -> "Builtin":
        """See `cutout_server.models.builtin.load`."""
        if files != ModelFiles():
            raise FailedPreconditionError(
                "the built-in model brings its weights: expected neither checkpoint, config nor companions"
            )
        if not hasattr(cv2, "CascadeClassifier"):
            raise FailedPreconditionError(
                f"the built-in model needs OpenCV 4, which has the cascades; this is OpenCV {cv2.__version__}: "
                "install opencv-python-headless below version 5"
            )
        return cls()

    def __init__(self) -> None:
        self._network = Network()
        self._detectors = Detectors(self._network)
        self._tracker = BuiltinTracker(self._network)

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return self._network.nbytes

    def encode(self, images: Sequence[RgbImage]) -> list[BuiltinEmbedding]:
        """Makes smaller copies of each picture, from which crops are cut."""
        return [embed(image) for image in images]

    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """Decodes each prompt by itself, so that company changes no answer.

        Logits are in [-12, 12] and their size depends on the object's. With multimask, clicks alone give three masks
        that differ, the likeliest first.
        """
        return [
            decode(self._network, own_embedding(query.embedding, BuiltinEmbedding), query.prompt, query.multimask)
            for query in queries
        ]

    def masks(self, queries: Sequence[MaskQuery]) -> list[MaskPatch]:
        """Brings logits to the picture's size."""
        return [upscaled(query.logits, query.threshold, query.embedding.image_size) for query in queries]

    def track(self, queries: Sequence[TrackQuery]) -> list[Tracked]:
        """Follows objects by their motion and their look; see `tracking`."""
        return self._tracker.track(queries)

    def exclusive_masks(self, queries: Sequence[Sequence[MaskQuery]]) -> list[list[Rle]]:
        """See `Tracker.exclusive_masks`."""
        return [
            exclusive(
                (full_size(query.logits, query.embedding.image_size) for query in group),
                [query.threshold for query in group],
            )
            for group in queries
        ]

    def propose(self, queries: Sequence[ProposeQuery]) -> list[Candidates]:
        """Proposes everything in each picture, the likeliest first."""
        return [
            propose(self._network, own_embedding(query.embedding, BuiltinEmbedding), query.points_per_side)
            for query in queries
        ]

    def image_features(self, images: Sequence[RgbImage]) -> list[BuiltinFeatures]:
        """Nothing yet: what a word needs is looked for when it is first asked for, and kept with the picture."""
        return [self._detectors.features(image) for image in images]

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        """Finds the words of `words.VOCABULARY`; see `Detector.detect`."""
        return [self._detectors.find(query) for query in queries]
