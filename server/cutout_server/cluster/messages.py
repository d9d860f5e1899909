"""What passes between a front and the workers. Ray carries it, and pickles it on the way."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cutout_server.models.embedding import Embedding, ObjectMemory
from cutout_server.models.runtime import Runtime
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.types import Picture


@dataclass(frozen=True)
class Handle:
    """Stands for an embedding, which stays with a worker; each worker can make it again of the picture.

    Attributes:
        key: What it is the embedding of.
        image_size: (height, width) of the picture, in pixels.
        nbytes: Memory of the embedding, in bytes; 0 while it is not known.
        picture: Given while a request has it in hand; it stays where it is.
    """

    key: EmbeddingKey
    image_size: tuple[int, int]
    nbytes: int = 0
    picture: Picture | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[type["Handle"], tuple[Any, ...]]:
        """It crosses without the picture."""
        return Handle, (self.key, self.image_size, self.nbytes)


@dataclass(frozen=True)
class Remote:
    """Stands for what a tracker remembers of an object, which stays in the cluster's object store.

    Attributes:
        nbytes: Its memory, in bytes.
        grown_bytes: What it comes to hold, without any frame that can be corrected, and for each of those.
        ref: Where it is.
    """

    nbytes: int
    grown_bytes: tuple[int, int]
    ref: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, memory: ObjectMemory) -> "Remote":
        """What stands for it."""
        return cls(memory.nbytes, (memory.grown(0), memory.grown(1) - memory.grown(0)))

    def grown(self, held_frames: int) -> int:
        """See ObjectMemory."""
        least, each = self.grown_bytes
        return least + held_frames * each


@dataclass(frozen=True)
class Asked:
    """What goes with every question.

    Attributes:
        model: Name of the model that is asked.
        request_id: Of the call that it belongs to.
        party: Among whom the worker is shared.
        left_s: Seconds until the answer is of no use any more.
        turn_left_s: Seconds until the request is to be done.
        traceparent: What the worker's part of its trace is below.
        forgotten: Embeddings that nobody of the front's asks about any more, told on this occasion.
    """

    model: str
    request_id: str
    party: str
    left_s: float
    turn_left_s: float
    traceparent: str
    forgotten: Sequence[EmbeddingKey] = ()


@dataclass(frozen=True)
class Answered:
    """Answers.

    Attributes:
        stages_s: Seconds that each stage took there.
        embeddings: Memory of each embedding that they needed, in bytes; the worker has them now.
    """

    answers: Sequence[Any] = field(repr=False)
    stages_s: Mapping[str, float]
    embeddings: Mapping[EmbeddingKey, int]


@dataclass(frozen=True)
class Seen:
    """A worker at one moment.

    Attributes:
        node: Name of its machine.
        models: Bytes by name.
        heard: What its observer heard since somebody looked last: the name of each of its methods, with the arguments.
    """

    node: str
    models: dict[str, int]
    loads: dict[str, int]
    runtimes: dict[str, Runtime]
    queued_jobs: int
    jobs: int
    batches: int
    memory: tuple[int, int]
    heard: Sequence[tuple[str, tuple[Any, ...]]] = field(repr=False)


class LackingError(Exception):
    """A worker does not have an embedding, and needs the picture to make it."""


def deadline(left_s: float) -> float:
    """The time on the clock of time.monotonic that is so many seconds away."""
    return time.monotonic() + left_s


def left(deadline_s: float) -> float:
    """Seconds until a time on the clock of time.monotonic, which other machines do not share."""
    return deadline_s - time.monotonic() if math.isfinite(deadline_s) else math.inf


def handles(questions: Any) -> Iterator[Handle]:
    """Those in questions, or in one that consists of several."""
    for question in questions if isinstance(questions, (list, tuple)) else (questions,):
        if isinstance(question, (list, tuple)):
            yield from handles(question)
        elif isinstance(embedding := getattr(question, "embedding", None), Handle):
            yield embedding


def with_embeddings(question: Any, embeddings: Mapping[EmbeddingKey, Embedding]) -> Any:
    """The same with each handle's embedding in its place."""
    if isinstance(question, (list, tuple)):
        return [with_embeddings(each, embeddings) for each in question]
    handle = getattr(question, "embedding", None)
    return replace(question, embedding=embeddings[handle.key]) if isinstance(handle, Handle) else question


def with_memory(question: Any, memory: ObjectMemory) -> Any:
    """The same with another memory."""
    return replace(question, memory=memory)
