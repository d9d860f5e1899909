"""Video files to upright RGB frames, by FFmpeg's decoders as PyAV brings them.

PyAV gives what the server needs of FFmpeg: each packet's time and whether decoding can begin at it, which demuxer and
which decoders may be used, and a bound on pixels inside the decoder.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from cutout_server.imaging.video import VideoFrame, VideoHeader, VideoLimits
from cutout_server.imaging.video_container import Container
from cutout_server.imaging.video_decoding import Decoding
from cutout_server.imaging.video_index import Index
from cutout_server.types import RgbImage


def _nothing() -> None:
    """Nobody counts what is decoded."""


class VideoFile:
    """An opened file and its index. Use it in a `with` block.

    Args:
        path: Of the file.
        limits: What it may be at most.
        field: The field that errors name.
        decoded: Called after each frame that was decoded, wanted or not.

    Raises:
        FileNotFoundError: It is gone.
        InvalidRequestError: It cannot be read, or is beyond the limits.
    """

    def __init__(self, path: Path, limits: VideoLimits, field: str, decoded: Callable[[], None] = _nothing) -> None:
        self._file = Container(path, limits, field)
        try:
            self._index = Index(self._file, limits)
        except BaseException:
            self._file.close()
            raise
        self._decoding = Decoding(self._file, self._index, limits.held_bytes, decoded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def describe(self) -> VideoHeader:
        """What is known of it, once a frame could be decoded.

        Raises:
            InvalidRequestError: None can be.
        """
        frame = self._decoding.first()
        if frame is None:
            raise self._file.unreadable(f"no frame of its {self._file.codec} can be decoded")
        turns = _quarter_turns(frame)
        width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
        duration_s = self._index.duration_s()
        return VideoHeader(
            width=width,
            height=height,
            content_type=self._file.content_type,
            codec=self._file.codec,
            rotation_degrees=90 * turns,
            frames=self._index.count,
            missing_frames=self._index.missing(),
            duration_s=duration_s,
            rate=self._index.count / duration_s,
        )

    def check(self, wanted: Sequence[int]) -> None:
        """Refuses a way that would decode frames again and again, before anything is decoded.

        Args:
            wanted: As of `frames`.

        Raises:
            InvalidRequestError: It leads backwards through a group that would be decoded in too many pieces.
        """
        self._decoding.check(wanted)

    def frames(self, wanted: Sequence[int], size: tuple[int, int]) -> Iterator[VideoFrame]:
        """Decodes frames as they are asked for; those that cannot be decoded are passed over.

        Args:
            wanted: Their numbers, ascending or descending.
            size: (height, width) of the upright frames; others are passed over, too.
        """
        for number, frame in self._decoding.frames(wanted):
            pixels: RgbImage = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame)))
            if pixels.shape[:2] == size:
                yield VideoFrame(number, self._index.seconds(number), pixels)


def _quarter_turns(frame: Any) -> int:
    """How often it is to be turned counterclockwise."""
    return int(round(frame.rotation / 90) % 4)
