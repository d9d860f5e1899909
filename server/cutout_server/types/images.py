"""Images, and where they come from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]  # (H, W, 3), values in [0, 255]


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    Attributes:
        height: Rows.
        width: Columns.
        key: Made of a hash of pixels, so that pictures of different pixels have different keys.
        source: Its pixels, or what makes them.
    """

    height: int
    width: int
    key: str
    source: RgbImage | Callable[[], RgbImage] = field(repr=False)

    @classmethod
    def of(cls, pixels: RgbImage, key: str) -> "Picture":
        """A picture whose pixels are there."""
        return cls(pixels.shape[0], pixels.shape[1], key, pixels)

    @property
    def is_decoded(self) -> bool:
        """Whether `pixels` takes no time."""
        return not callable(self.source)

    @cached_property
    def pixels(self) -> RgbImage:
        """(H, W, 3) uint8 RGB."""
        return self.source() if callable(self.source) else self.source


@dataclass(frozen=True)
class FileImage:
    """A picture file as it came.

    Attributes:
        content: The file.
        field: Which of the contract's fields it came in, so that errors can name it.
    """

    content: bytes = field(repr=False)
    field: str = "image.content"


@dataclass(frozen=True)
class UriImage:
    """A picture to be fetched."""

    uri: str


@dataclass(frozen=True)
class StoredImage:
    """A picture that was uploaded before."""

    image_id: str


@dataclass(frozen=True)
class TensorImage:
    """Pixels without a file.

    Attributes:
        values: (H, W, C) of uint8, uint16 or float32 in [0, 1]; C is 1, 3 or 4.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class StoredFrame:
    """A frame of a video that was uploaded before.

    Attributes:
        number: Which, from 0.
    """

    video_id: str
    number: int


ImageSource = FileImage | UriImage | StoredImage | StoredFrame | TensorImage
