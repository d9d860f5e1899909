"""What can be asked of models. The pools carry questions and answers without knowing what they hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cutout_server.models.embedding import Embedding
from cutout_server.models.protocols import (
    Classifier,
    Detector,
    Generator,
    GridSegmenter,
    Proposer,
    Segmenter,
    TextSegmenter,
    Tracker,
)
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

Query = TypeVar("Query")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Operation(Generic[Query, Answer]):
    """One thing that can be asked of some models. There is one value of each, so that equal ones are the same one.

    Attributes:
        name: For metrics and errors.
        stage: Which of the stages of a request its time counts to.
        run: Asks a model a sequence of questions in one pass, and gives as many answers. Which models can be asked is
            not in its type: whoever asks has chosen one by its task.
        makes_embeddings: Whether its answers are embeddings, made of pictures.
        reads_embeddings: Whether its questions have an embedding that the model computes with. `MASKS` needs no more of
            its embeddings than the picture's size.
    """

    name: str
    stage: str
    run: Callable[[Any, Sequence[Query]], Sequence[Answer]] = field(repr=False)
    makes_embeddings: bool = False
    reads_embeddings: bool = False

    def __reduce__(self) -> tuple[Callable[[str], "Operation[Any, Any]"], tuple[str]]:
        """In another process it is that process's own."""
        return operation_named, (self.name,)


def _encode(model: Segmenter | TextSegmenter, images: Sequence[RgbImage]) -> Sequence[Embedding]:
    return model.encode(images)


def _decode(model: Segmenter, queries: Sequence[DecodeQuery]) -> Sequence[Candidates]:
    return model.decode(queries)


def _masks(model: Segmenter | TextSegmenter, queries: Sequence[MaskQuery]) -> Sequence[MaskPatch]:
    return model.masks(queries)


def _propose(model: Proposer, queries: Sequence[ProposeQuery]) -> Sequence[Candidates]:
    return model.propose(queries)


def _filtered(model: GridSegmenter, queries: Sequence[PointQuery]) -> Sequence[FilteredMasks]:
    return model.filtered_masks(queries)


def _image_features(model: Detector, images: Sequence[RgbImage]) -> Sequence[Embedding]:
    return model.image_features(images)


def _detect(model: Detector, queries: Sequence[DetectQuery]) -> Sequence[Sequence[Detection]]:
    return model.detect(queries)


def _segment_text(model: TextSegmenter, queries: Sequence[TextQuery]) -> Sequence[Sequence[TextFind]]:
    return model.segment_text(queries)


def _embed_pictures(model: Classifier, images: Sequence[RgbImage]) -> Sequence[Features]:
    return model.embed_pictures(images)


def _embed_texts(model: Classifier, texts: Sequence[str]) -> Sequence[Features]:
    return model.embed_texts(texts)


def _generate(model: Generator, queries: Sequence[GenerateQuery]) -> Sequence[RgbImage]:
    return model.generate(queries)


def _track(model: Tracker, queries: Sequence[TrackQuery]) -> Sequence[Tracked]:
    return model.track(queries)


def _exclusive_masks(model: Tracker, queries: Sequence[Sequence[MaskQuery]]) -> Sequence[Sequence[Rle]]:
    return model.exclusive_masks(queries)


ENCODE = Operation("encode", "encode", _encode, makes_embeddings=True)
DECODE = Operation("decode", "prompt", _decode, reads_embeddings=True)
MASKS = Operation("masks", "masks", _masks)
PROPOSE = Operation("propose", "prompt", _propose, reads_embeddings=True)
FILTERED_MASKS = Operation("filtered_masks", "prompt", _filtered, reads_embeddings=True)
IMAGE_FEATURES = Operation("image_features", "detect", _image_features, makes_embeddings=True)
DETECT = Operation("detect", "detect", _detect, reads_embeddings=True)
SEGMENT_TEXT = Operation("segment_text", "detect", _segment_text, reads_embeddings=True)
EMBED_PICTURES = Operation("embed_pictures", "classify", _embed_pictures)
EMBED_TEXTS = Operation("embed_texts", "classify", _embed_texts)
GENERATE = Operation("generate", "generate", _generate)
TRACK = Operation("track", "track", _track, reads_embeddings=True)
EXCLUSIVE_MASKS = Operation("exclusive_masks", "masks", _exclusive_masks)

_BY_NAME: dict[str, Operation[Any, Any]] = {
    each.name: each for each in list(globals().values()) if isinstance(each, Operation)
}


def operation_named(name: str) -> Operation[Any, Any]:
    """The operation of that name."""
    return _BY_NAME[name]
