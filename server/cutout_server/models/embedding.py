"""What encoders make, and what trackers remember."""

from typing import Protocol, TypeVar

E = TypeVar("E")


class Embedding(Protocol):
    """A picture after the encoder, together with whatever the decoder needs of it. Immutable once made."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture, in pixels."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        ...


class ObjectMemory(Protocol):
    """What a tracker remembers of one object. Immutable; kept by whoever follows the object, never by the model."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        ...

    def grown(self, held_frames: int) -> int:
        """Memory that it comes to hold, in bytes, once the object was followed through many frames.

        Args:
            held_frames: So many frames can be corrected; each of them takes the same.
        """
        ...


def own_memory(memory: ObjectMemory, kind: type[E]) -> E:
    """The memory as the family's own.

    Raises:
        TypeError: It is of another family.
    """
    if not isinstance(memory, kind):
        raise TypeError(f"expected a memory of this family, a {kind.__name__}, got a {type(memory).__name__}")
    return memory


def own_embedding(embedding: Embedding, kind: type[E]) -> E:
    """The embedding as the family's own.

    Raises:
        TypeError: It is of another family.
    """
    if not isinstance(embedding, kind):
        raise TypeError(f"expected an embedding of this family, a {kind.__name__}, got a {type(embedding).__name__}")
    return embedding
