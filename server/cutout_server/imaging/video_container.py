"""A video file opened by FFmpeg as PyAV brings it: which demuxer and decoders may see it, and what its header says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.video import VideoLimits

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")
# FFmpeg's decoders for them; no other one sees the bytes of a stranger.
_DECODERS = "h264,hevc,vp8,vp9,libdav1d,av1,mpeg4,mjpeg"
# In AVI their packets carry no times by which frames could be told apart.
_UNTIMED_IN_AVI = ("h264", "hevc")
_SNIFFED_BYTES = 4096


class Container:
    """An opened file, and its first stream of pictures that is no cover.

    Attributes:
        stream: PyAV's; its decoder has one thread.
        codec: FFmpeg's name.
        content_type: "video/mp4" and the like.
        is_timed: Whether packets carry times by which frames can be told apart.
        error: What PyAV raises.
    """

    def __init__(self, path: Path, limits: VideoLimits, field: str) -> None:
        import av  # noqa: PLC0415 - an extra

        self._field = field
        self.error = av.error.FFmpegError
        with path.open("rb") as file:
            demuxer, self.content_type = _sniff(file.read(_SNIFFED_BYTES), field)
        try:
            self._opened: Any = av.open(
                str(path),
                format=demuxer,
                options={"max_pixels": str(limits.max_pixels)},
                container_options={"protocol_whitelist": "file", "codec_whitelist": _DECODERS},
            )
        except MemoryError:
            raise
        except self.error as error:
            raise self.unreadable("expected a whole video; its index is cut off, or damaged") from error
        try:
            self.stream, self.codec = self._choose()
            self._check_header(limits)
        except BaseException:
            self.close()
            raise
        self.is_timed = not (demuxer == "avi" and self.codec in _UNTIMED_IN_AVI)

    def close(self) -> None:
        """Lets the file go."""
        self._opened.close()

    def packets(self) -> Iterator[Any]:
        """Whole packets from here on, as far as the file goes."""
        try:
            for packet in self._opened.demux(self.stream):
                if packet.size and not packet.is_corrupt:
                    yield packet
        except MemoryError:
            raise
        except self.error:
            return

    def seek(self, time: int) -> bool:
        """Goes to a packet by its time; whether that could be done."""
        try:
            self._opened.seek(time, stream=self.stream)
        except self.error:
            return False
        return True

    @property
    def is_alone(self) -> bool:
        """Whether there is no other stream, such as sound, that could be longer."""
        return len(self._opened.streams) == 1

    @property
    def frame_bytes(self) -> int:
        """Of a decoded frame."""
        context = self.stream.codec_context
        return max(1, int(context.width * context.height * 3 // 2))

    def declared_s(self) -> float:
        """How long the header says that it lasts; 0 if it does not."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        # Matroska's is the time of its end, wherever it begins.
        return max(0, (self._opened.duration or 0) - max(0, self._opened.start_time or 0)) / 1_000_000

    def unreadable(self, what: str) -> InvalidRequestError:
        """The refusal of a file that cannot be read."""
        return InvalidRequestError.of(self._field, what, reason="VIDEO_UNREADABLE")

    def too_large(self, most: str, got: str) -> InvalidRequestError:
        """The refusal of one that is beyond a limit."""
        return InvalidRequestError.of(self._field, f"expected at most {most}, got {got}", reason="VIDEO_TOO_LARGE")

    def _choose(self) -> tuple[Any, str]:
        from av.stream import Disposition  # noqa: PLC0415 - an extra

        streams = [s for s in self._opened.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise self.unreadable("expected a video, got none in the file")
        context = streams[0].codec_context
        codec = "" if context is None else context.codec.canonical_name
        if codec not in CODECS:
            what = f"expected one of {', '.join(CODECS)}, got {codec or 'a codec that nobody knows'}"
            raise InvalidRequestError.of(self._field, what, reason="VIDEO_UNSUPPORTED")
        context.thread_count = 1
        return streams[0], codec

    def _check_header(self, limits: VideoLimits) -> None:
        """Refuses what the header says to be too much, before anything else is read."""
        context = self.stream.codec_context
        if context.width * context.height > limits.max_pixels:
            raise self.too_large(f"{limits.max_pixels:,} pixels a frame", f"{context.width} x {context.height}")
        if self.stream.frames > limits.max_frames:
            raise self.too_large(f"{limits.max_frames:,} frames", f"{self.stream.frames:,}")
        if self.declared_s() > limits.max_s:
            raise self.too_large(f"{limits.max_s:g} s", f"{self.declared_s():.1f}")


def _sniff(head: bytes, field: str) -> tuple[str, str]:
    """FFmpeg's demuxer for a file, and its content type.

    Raises:
        InvalidRequestError: It is none of ours.
    """
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
        is_mov = head[4:8] != b"ftyp" or head[8:12] == b"qt  "
        return "mov", "video/quicktime" if is_mov else "video/mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska", "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi", "video/x-msvideo"
    begins = f"it begins with {head[:8].hex(' ')}" if head else "it is empty"
    raise InvalidRequestError.of(
        field, f"expected an MP4, MOV, MKV, WebM or AVI file; {begins}", reason="VIDEO_UNREADABLE"
    )
