"""Pictures of all kinds made ready to travel.

Files travel as they are. Pixels (numpy, Pillow) are brought to 8 bits, which is what the server works with, and travel
raw while they fit into a message comfortably; beyond that as a PNG, which loses nothing.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar
from urllib.parse import unquote, urlsplit

import numpy as np
import PIL.Image
from cutout.v1 import image_pb2
from numpy.typing import NDArray

from cutout_client.keywords import nearest
from cutout_client.messages import of_type
from cutout_client.pixels import eight_bits, from_pillow, on_white, read_rgb, to_pillow

INLINE_BYTES = 3 * 2**20  # gRPC refuses messages over 4 MiB by default; the rest is for prompts.
CHUNK_BYTES = 512 * 2**10
UNNAMED = "picture"
_ENDINGS = {"jpeg": ".jpg", "mpo": ".jpg"}


class ImageId(str):
    """The id of a picture that `upload` stored, as told apart from a path."""

    __slots__ = ()


@dataclass(frozen=True)
class FilePicture:
    """A picture file, in memory or on disk. One on disk is read when it is needed, and not kept."""

    content: bytes | Path = field(repr=False)
    is_here: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What files about it are called: the file's own name without its ending."""
        return self.content.stem if isinstance(self.content, Path) else UNNAMED

    @property
    def file_name(self) -> str:
        """The file's own name; empty for one that has none."""
        return self.content.name if isinstance(self.content, Path) else ""

    @property
    def ending(self) -> str:
        """Such as ".jpg", by what is in the file; empty when Pillow does not know."""
        try:
            with PIL.Image.open(self.content if isinstance(self.content, Path) else io.BytesIO(self.content)) as image:
                kind = (image.format or "").lower()
        except (OSError, PIL.Image.DecompressionBombError):
            return ""
        return _ENDINGS.get(kind, f".{kind}")

    def fill(self, message: image_pb2.Image) -> bool:
        """Puts the file into the message; False when it is too large for that."""
        size = self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)
        if size > INLINE_BYTES:
            return False
        message.content = self.file()
        return True

    def file(self) -> bytes:
        """The file's bytes."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content

    def rgb(self) -> NDArray[np.uint8]:
        """The upright picture, (H, W, 3), for drawing on."""
        return read_rgb(self.content)


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class PixelPicture:
    """Pixels: (H, W, C) uint8 with C of 1, 3 or 4."""

    values: NDArray[np.uint8] = field(repr=False)
    is_here: ClassVar[bool] = True
    name: ClassVar[str] = UNNAMED
    file_name: ClassVar[str] = ""
    ending: ClassVar[str] = ".png"  # as which they would be kept

    def fill(self, message: image_pb2.Image) -> bool:
        """Puts the pixels into the message; False when they are too large for that."""
        if self.values.nbytes > INLINE_BYTES:
            return False
        self.fill_raw(message)
        return True

    def fill_raw(self, message: image_pb2.Image) -> None:
        """Puts the pixels into the message, however many they are."""
        height, width, channels = self.values.shape
        tensor = image_pb2.RawTensor(height=height, width=width, channels=channels, data=self.values.tobytes())
        tensor.dtype = image_pb2.RawTensor.DATA_TYPE_UINT8
        message.tensor.CopyFrom(tensor)

    def file(self) -> bytes:
        """The pixels as a PNG."""
        buffer = io.BytesIO()
        # Higher levels cost seconds and save little on photographs.
        to_pillow(self.values).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def rgb(self) -> NDArray[np.uint8]:
        """The picture, (H, W, 3), for drawing on."""
        return on_white(to_pillow(self.values))


@dataclass(frozen=True)
class RemotePicture:
    """A picture that the server has, or fetches.

    Attributes:
        uri: Where the server fetches it; or
        image_id: the name under which it is stored; or
        video_id: that of a video, of which it is
        frame: this one.
        local: The same picture here, if it is.
    """

    uri: str = ""
    image_id: str = ""
    video_id: str = ""
    frame: int = 0
    local: "Picture | None" = None

    @property
    def is_here(self) -> bool:
        """Whether there is something to draw on."""
        return self.local is not None

    @property
    def name(self) -> str:
        """What files about it are called."""
        if self.local is not None:
            return self.local.name
        return self.image_id or PurePosixPath(self.file_name).stem or UNNAMED

    @property
    def file_name(self) -> str:
        """The file's own name, here or at the end of its address; empty when it has none."""
        if self.local is not None:
            return self.local.file_name
        return PurePosixPath(unquote(urlsplit(self.uri).path)).name

    @property
    def ending(self) -> str:
        """As the local picture's; empty when there is none."""
        return "" if self.local is None else self.local.ending

    def fill(self, message: image_pb2.Image) -> bool:
        """Names the picture in the message."""
        if self.uri:
            message.uri = self.uri
        elif self.video_id:
            message.video_frame.video_id, message.video_frame.frame = self.video_id, self.frame
        else:
            message.image_id = self.image_id
        return True

    def file(self) -> bytes:
        """The file's bytes.

        Raises:
            ValueError: The picture is on the server's side alone.
        """
        return self._here().file()

    def rgb(self) -> NDArray[np.uint8]:
        """The upright picture, (H, W, 3), for drawing on.

        Raises:
            ValueError: The picture is on the server's side alone.
        """
        return self._here().rgb()

    def _here(self) -> "Picture":
        if self.local is None:
            which = self.uri or self.image_id or f"{self.frame} of {self.video_id}"
            raise ValueError(f"the picture {which} is on the server's side; pass a local one")
        return self.local


Picture = RemotePicture | FilePicture | PixelPicture


@dataclass(frozen=True)
class UploadedImage:
    """A picture that the server stored.

    Attributes:
        image_id: Names it in requests, from anywhere that uses the same API key.
        sha256: Hexadecimal digest of the file.
        size_bytes: Size of the file.
        content_type: "image/jpeg" and the like.
        width: Columns of the upright picture, in pixels.
        height: Rows of the upright picture, in pixels.
        expire_time: When it is forgotten unless it is used before.
        local: The picture as it was given, for drawing on.
    """

    image_id: ImageId
    sha256: str
    size_bytes: int
    content_type: str
    width: int
    height: int
    expire_time: datetime
    local: Picture = field(repr=False)


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video that the server stored, as `StoredVideo.frame` gives it.

    Attributes:
        video_id: Of the video.
        number: Which, from 0 in the order in which they are shown.
    """

    video_id: str
    number: int


ImageLike = (
    str
    | PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | PIL.Image.Image
    | NDArray[Any]
    | UploadedImage
    | VideoFrame
)


def read_picture(image: ImageLike) -> Picture:
    """Takes a picture of any kind.

    Args:
        image: A path; an http or https address, which the server fetches; the bytes of a file; an open binary file; a
            Pillow image, whose pixels are taken as they stand; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of
            uint8, uint16, or floats in [0, 1]; what `upload` answered; an `ImageId`; a frame of a stored video.

    Raises:
        FileNotFoundError: The path names no file.
        ValueError: The array has another shape, or values outside of [0, 1].
        TypeError: It is none of these.
    """
    match image:
        case UploadedImage():
            return RemotePicture(image_id=image.image_id, local=image.local)
        case ImageId():
            return RemotePicture(image_id=image)
        case VideoFrame():
            return RemotePicture(video_id=image.video_id, frame=image.number)
        case str() if image.startswith(("http://", "https://")):
            return RemotePicture(uri=image)
        case PIL.Image.Image() | np.ndarray():
            return PixelPicture(eight_bits(image if isinstance(image, np.ndarray) else from_pillow(image)))
        case _:
            return FilePicture(_read_file(image))


def _read_file(image: Any) -> bytes | Path:
    if isinstance(image, str | PathLike):
        path = Path(image)
        if path.is_file():
            return path
        raise _missing(path)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not hasattr(image, "read"):
        kinds = "a path, an address, bytes, a binary file, a Pillow image, an array, an UploadedImage or an ImageId"
        raise TypeError(f"a picture is {kinds}, not {type(image).__name__}")
    content = image.read()
    if not isinstance(content, bytes):
        raise TypeError("the picture's file must be opened in binary mode")
    return content


def _missing(path: Path) -> OSError:
    if path.is_dir():
        files = sorted(each.name for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
        held = f"it holds {', '.join(files[:3])}{' ...' if len(files) > 3 else ''}" if files else "it holds no file"
        return IsADirectoryError(
            f"{path} is a folder and a picture is a file; {held}. `cutout segment {path}` takes whole folders"
        )
    names = (each.name for each in islice(path.parent.iterdir(), 1000)) if path.parent.is_dir() else ()
    return FileNotFoundError(f"there is no picture file {path}{nearest(path.name, names)}")


def image_id_of(image: UploadedImage | ImageId | str) -> str:
    """The id of a stored picture.

    Raises:
        TypeError: It is none.
    """
    of_type("image", image, (UploadedImage, str), "a stored picture, or its id")
    return image.image_id if isinstance(image, UploadedImage) else image


def chunks(content: bytes) -> Iterator[bytes]:
    """Cuts a file into pieces of CHUNK_BYTES; an empty file is one empty piece."""
    for start in range(0, len(content) or 1, CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]
