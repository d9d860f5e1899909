"""What encoders make."""

from typing import Protocol


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
