"""What is said of videos: limits, headers, frames. Files are read by `video_file`, in processes of their own."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

from cutout_server.types import RgbImage

VIDEO_TOO_COSTLY = "VIDEO_TOO_COSTLY"


@dataclass(frozen=True)
class VideoLimits:
    """What a video may be at most.

    Attributes:
        max_pixels: Columns times rows of a frame.
        max_frames: Number of frames.
        max_s: Duration in seconds.
        held_bytes: Decoded frames that are held on the way backwards.
    """

    max_pixels: int
    max_frames: int
    max_s: float
    held_bytes: int = 128 << 20

    @property
    def memory_bytes(self) -> int:
        """What a process may take to read one: decoders keep up to 17 frames, of at most three bytes a pixel."""
        return (512 << 20) + 64 * self.max_pixels


@dataclass(frozen=True)
class VideoHeader:
    """What is known of a video before it is decoded; see the contract's message Video.

    Attributes:
        width: Columns of the upright frames.
        height: Rows.
        content_type: "video/mp4" and the like.
        codec: FFmpeg's name.
        rotation_degrees: 0, 90, 180 or 270, counterclockwise.
        frames: How many are in the file.
        missing_frames: How many more its header promises.
        duration_s: From the first frame to the end of the last one.
        rate: Frames a second, on average.
    """

    width: int
    height: int
    content_type: str
    codec: str
    rotation_degrees: int
    frames: int
    missing_frames: int
    duration_s: float
    rate: float


class VideoFrame(NamedTuple):
    """A frame: its number, when it is shown in seconds from the first one, and (H, W, 3) uint8 RGB."""

    number: int
    seconds: float
    pixels: RgbImage


def is_readable() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None
