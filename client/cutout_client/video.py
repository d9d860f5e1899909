"""Videos as frames, and frames as videos, by OpenCV.

OpenCV brings its own FFmpeg for files (H.264, HEVC, VP9, AV1 in MP4, MOV, MKV, WebM and AVI), turns frames upright by
the rotation that a file says, and reads cameras by the same class; the server's built-in model needs it anyway. It is
imported when it is needed: pictures need none of it.
"""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from cutout_common.distribution import install_hint
from numpy.typing import NDArray

from cutout_client.frame_range import check_range
from cutout_client.tracked import Frame

DEFAULT_RATE = 30.0  # Where a file or a camera does not say.
_ESTIMATED = 0.05  # Of the frames that a header promises: where it has only a duration and a rate they are an estimate.


def _cv2() -> Any:
    try:
        import cv2  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError(f"videos need OpenCV: {install_hint('video')}") from None
    return cv2


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says.

    Attributes:
        width: Columns of the upright frames, in pixels.
        height: Rows.
        rate: Frames a second.
        frames: How many there should be; 0 when it does not say, as a camera does not.
    """

    width: int
    height: int
    rate: float
    frames: int


class Video:
    """A file's or a camera's frames. Use it in a `with` block.

    Args:
        source: A path, or the number of a camera.
        start: The first frame that is wanted, from 0.
        end: The one behind the last; None for all.
        every: Each how many-th is wanted.

    Attributes:
        info: What its header says.
        missing: About how many frames the header promises behind the one at which reading ended, as the file is cut off
            or damaged; 0 until then.

    Raises:
        FileNotFoundError: The path names no file.
        ValueError: It is no video that can be read, or there is no such camera.
        ImportError: OpenCV is not installed.
    """

    def __init__(
        self, source: str | PathLike[str] | int, *, start: int = 0, end: int | None = None, every: int = 1
    ) -> None:
        check_range(start, end, every)
        if not isinstance(source, int) and not Path(source).is_file():
            raise FileNotFoundError(f"there is no video {fspath(source)}")
        cv2 = _cv2()
        self._reading = threading.Lock()
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else fspath(source))
        if not self._capture.isOpened():
            what = f"camera {source}" if isinstance(source, int) else f"{fspath(source)} as a video"
            raise ValueError(f"cannot read {what}")
        self._range = (start, end, every)
        self.missing = 0
        self.info = VideoInfo(
            width=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            rate=float(self._capture.get(cv2.CAP_PROP_FPS)) or DEFAULT_RATE,
            frames=0 if isinstance(source, int) else max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))),
        )

    def __iter__(self) -> Iterator[Frame]:
        """The frames with their numbers and times; ends where the file cannot be read any further, or is closed."""
        cv2, (start, end, every) = _cv2(), self._range
        for number in itertools.count() if end is None else range(end):
            is_wanted = number >= start and (number - start) % every == 0
            # Sessions take frames in a thread of their own, and OpenCV crashes when a file is closed while it is read.
            with self._reading:
                read, pixels = self._capture.grab(), None
                seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if read and is_wanted:
                    read, pixels = self._capture.retrieve()
            if not read:
                missing = self.info.frames - number
                self.missing = missing if missing > _ESTIMATED * self.info.frames else 0
                return
            if is_wanted:
                yield Frame(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), timestamp_s=seconds, index=number)

    def __len__(self) -> int:
        """How many frames there should be; 0 when nobody knows."""
        start, end, every = self._range
        last = min(self.info.frames, end) if end is not None else self.info.frames
        return max(0, -(-(last - start) // every))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the file or the camera go; whoever takes frames from it in another thread gets no more."""
        with self._reading:
            self._capture.release()


def frames_of(path: str | PathLike[str], *, start: int, end: int | None, every: int) -> Iterator[Frame]:
    """A file's frames; opened at once, so that what is wrong with it is said here, and closed at their end.

    Raises:
        As `Video` does.
        ValueError: From the iterator: not one of them can be read.
    """
    video = Video(path, start=start, end=end, every=every)

    def frames() -> Iterator[Frame]:
        with video:
            following = iter(video)
            first = next(following, None)
            if first is None:
                raise ValueError(f"{fspath(path)}: there is no frame that can be read")
            yield first
            yield from following

    return frames()


class VideoWriter:
    """Frames to an MP4 (MPEG-4 part 2, which every OpenCV writes). Use it in a `with` block.

    Args:
        path: Of the file.
        rate: Frames a second.

    Raises:
        ImportError: OpenCV is not installed.
    """

    def __init__(self, path: str | PathLike[str], rate: float = DEFAULT_RATE) -> None:
        self._cv2 = _cv2()
        self._path = Path(path)
        self._rate = rate
        self._writer: Any = None

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Appends (H, W, 3) uint8 RGB, of the first one's size.

        Raises:
            OSError: The file cannot be written.
        """
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            size = (pixels.shape[1], pixels.shape[0])
            self._writer = self._cv2.VideoWriter(
                str(self._path), self._cv2.VideoWriter.fourcc(*"mp4v"), self._rate, size
            )
            if not self._writer.isOpened():
                raise OSError(f"cannot write {self._path} as an MP4")
        self._writer.write(self._cv2.cvtColor(np.ascontiguousarray(pixels), self._cv2.COLOR_RGB2BGR))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()
