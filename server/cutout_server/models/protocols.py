"""The Protocols that a model family fills in.

Every method takes a sequence of questions and gives as many answers, in the same order: the pool joins the waiting
questions of several requests into one call. Methods are called from one thread at a time per device; they must not
keep state between calls, so that no request can disturb another.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cutout_server.models.embedding import Embedding
from cutout_server.models.queries import (
    Candidates,
    DecodeQuery,
    Detection,
    DetectQuery,
    FilteredMasks,
    GenerateQuery,
    MaskQuery,
    PointQuery,
    ProposeQuery,
    TextFind,
    TextQuery,
    Tracked,
    TrackQuery,
)
from cutout_server.types import Features, MaskPatch, RgbImage, Rle


@runtime_checkable
class Segmenter(Protocol):
    """Prompts to masks."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def encode(self, images: Sequence[RgbImage]) -> Sequence[Embedding]:
        """Encodes pictures of any sizes, (H, W, 3) uint8 RGB each."""
        ...

    def decode(self, queries: Sequence[DecodeQuery]) -> Sequence[Candidates]:
        """Decodes prompts on their embeddings."""
        ...

    def masks(self, queries: Sequence[MaskQuery]) -> Sequence[MaskPatch]:
        """Brings logits to the picture's size."""
        ...


@runtime_checkable
class Proposer(Protocol):
    """A segmenter that has its own way to find everything, better than a grid of points."""

    def propose(self, queries: Sequence[ProposeQuery]) -> Sequence[Candidates]:
        """Candidates for everything in each picture, C of them, any number."""
        ...


@runtime_checkable
class GridSegmenter(Protocol):
    """A segmenter that finds everything by a grid of points. Those that are no Proposers are this."""

    def filtered_masks(self, queries: Sequence[PointQuery]) -> Sequence[FilteredMasks]:
        """Decodes each point into three masks and keeps those that pass.

        Masks never leave the device at full size all together, and those that do not pass never leave it at all.
        """
        ...


@runtime_checkable
class Tracker(Protocol):
    """A segmenter that follows objects from frame to frame.

    Frames are encoded as pictures are. What it remembers of an object is a value that whoever follows the object keeps:
    bounded, however many frames there were, and gone when it is dropped.
    """

    def track(self, queries: Sequence[TrackQuery]) -> Sequence[Tracked]:
        """Finds an object in a frame, or takes what a prompt says of it there, and remembers that.

        Each object is by itself, whoever else is in the call.
        """
        ...

    def exclusive_masks(self, queries: Sequence[Sequence[MaskQuery]]) -> Sequence[Sequence[Rle]]:
        """As `masks`, of several objects of a frame each, which share no pixel: see `exclusive`."""
        ...


@runtime_checkable
class Detector(Protocol):
    """Words to boxes."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def image_features(self, images: Sequence[RgbImage]) -> Sequence[Embedding]:
        """What pictures of any sizes, (H, W, 3) uint8 RGB each, show before there are words."""
        ...

    def detect(self, queries: Sequence[DetectQuery]) -> Sequence[Sequence[Detection]]:
        """Finds the phrases; nothing found is an empty sequence.

        Raises:
            InvalidRequestError: A phrase is outside the model's vocabulary.
        """
        ...


@runtime_checkable
class TextSegmenter(Protocol):
    """Words to masks, without a detector between. One that is a `Segmenter` too has one `encode` for both."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def encode(self, images: Sequence[RgbImage]) -> Sequence[Embedding]:
        """Encodes pictures of any sizes, (H, W, 3) uint8 RGB each."""
        ...

    def segment_text(self, queries: Sequence[TextQuery]) -> Sequence[Sequence[TextFind]]:
        """Finds and outlines the phrases; nothing found is an empty sequence."""
        ...

    def masks(self, queries: Sequence[MaskQuery]) -> Sequence[MaskPatch]:
        """Brings the logits of finds to the picture's size, on the embeddings that came with them."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """Pictures and texts to vectors of one space."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def embed_pictures(self, images: Sequence[RgbImage]) -> Sequence[Features]:
        """(D,) float32 of unit length for each picture, (H, W, 3) uint8 RGB of any size."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Sequence[Features]:
        """(D,) float32 for each text, of such a length that its dot product with a picture's features is the logit.

        Raises:
            InvalidRequestError: A text is longer than the model can read.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Words to pictures."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    def generate(self, queries: Sequence[GenerateQuery]) -> Sequence[RgbImage]:
        """(height, width, 3) uint8 RGB for each query.

        Raises:
            AbandonedError: Nobody waits for a picture any more.
            InvalidRequestError: The model cannot take so many steps.
            TooLargeError: The device's memory does not hold such a picture on its way.
        """
        ...


Model = Segmenter | Detector | TextSegmenter | Classifier | Generator
