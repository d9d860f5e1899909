"""Video files to upright RGB frames, by FFmpeg's decoders as PyAV brings them.

PyAV gives what the server needs of FFmpeg: each packet's time and whether decoding can begin at it, which demuxer and
which decoders may be used, and a bound on pixels inside the decoder. Frames are numbered from 0 in the order in which
they are shown, by the times of their packets, which are read without decoding anything. To go backwards, or to a frame,
is to begin at the keyframe before it.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from cutout_server.errors import InvalidRequestError
from cutout_server.types import RgbImage

VIDEO_TOO_COSTLY = "VIDEO_TOO_COSTLY"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")
# FFmpeg's decoders for them; no other one sees the bytes of a stranger.
_DECODERS = "h264,hevc,vp8,vp9,libdav1d,av1,mpeg4,mjpeg"
# In AVI their packets carry no times by which frames could be told apart.
_UNTIMED_IN_AVI = ("h264", "hevc")
_SNIFFED_BYTES = 4096
# On the way forward so many frames are sooner decoded than passed over by a seek.
_NEAR = 16
# On the way backwards a group is decoded in pieces if it is too long to be held, from its keyframe on for each.
_MOST_PIECES = 32


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


class _Keyframe(NamedTuple):
    number: int
    time: int  # By which the demuxer finds it.


def is_readable() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


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
        import av  # noqa: PLC0415 - an extra

        self._field = field
        self._decoded_one = decoded
        self._held_bytes = limits.held_bytes
        with path.open("rb") as file:
            demuxer, self._content_type = _sniff(file.read(_SNIFFED_BYTES), field)
        self._error = av.error.FFmpegError
        try:
            self._container: Any = av.open(
                str(path),
                format=demuxer,
                options={"max_pixels": str(limits.max_pixels)},
                container_options={"protocol_whitelist": "file", "codec_whitelist": _DECODERS},
            )
        except self._error as error:
            what = "expected a whole video; its index is cut off, or damaged"
            raise InvalidRequestError.of(field, what, reason="VIDEO_UNREADABLE") from error
        try:
            self._stream: Any = self._choose()
            self._check_header(limits)
            self._read_index(demuxer, limits)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._container.close()

    def describe(self) -> VideoHeader:
        """What is known of it, once a frame could be decoded.

        Raises:
            InvalidRequestError: None can be.
        """
        _, frame = next(self._decoded(0), (0, None))
        if frame is None:
            raise InvalidRequestError.of(
                self._field, f"no frame of its {self._codec} can be decoded", reason="VIDEO_UNREADABLE"
            )
        turns = _quarter_turns(frame)
        width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
        duration_s = self._duration_s()
        return VideoHeader(
            width=width,
            height=height,
            content_type=self._content_type,
            codec=self._codec,
            rotation_degrees=90 * turns,
            frames=self.count,
            missing_frames=self._missing(duration_s),
            duration_s=duration_s,
            rate=self.count / duration_s,
        )

    def check(self, wanted: Sequence[int]) -> None:
        """Refuses a way that would decode frames again and again, before anything is decoded.

        Args:
            wanted: As of `frames`.

        Raises:
            InvalidRequestError: It leads backwards through a group that would be decoded in too many pieces.
        """
        if not _is_backward(wanted):
            return
        most = _MOST_PIECES * self._piece()
        for key, count in Counter(map(self._key_before, wanted)).items():
            if count > most:
                first = self._keys[key].number
                what = (
                    f"expected FORWARD, a larger every or a shorter range: at most {most} frames of this size that "
                    f"have one keyframe can be gone back through, and behind frame {first} there are {count}; or "
                    "convert the video to have more keyframes"
                )
                raise InvalidRequestError.of("direction", what, reason="VIDEO_TOO_FEW_KEYFRAMES")

    def frames(self, wanted: Sequence[int], size: tuple[int, int]) -> Iterator[VideoFrame]:
        """Decodes frames as they are asked for; those that cannot be decoded are passed over.

        Args:
            wanted: Their numbers, ascending or descending.
            size: (height, width) of the upright frames; others are passed over, too.
        """
        for number, frame in self._backward(wanted) if _is_backward(wanted) else self._forward(wanted):
            pixels: RgbImage = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame)))
            if pixels.shape[:2] == size:
                yield VideoFrame(number, self._seconds(number), pixels)

    def _choose(self) -> Any:
        """The first stream of pictures that is no cover, with one thread for its decoder."""
        from av.stream import Disposition  # noqa: PLC0415 - an extra

        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise InvalidRequestError.of(
                self._field, "expected a video, got none in the file", reason="VIDEO_UNREADABLE"
            )
        stream = streams[0]
        context = stream.codec_context
        self._codec = "" if context is None else context.codec.canonical_name
        if self._codec not in CODECS:
            what = f"expected one of {', '.join(CODECS)}, got {self._codec or 'a codec that nobody knows'}"
            raise InvalidRequestError.of(self._field, what, reason="VIDEO_UNSUPPORTED")
        context.thread_count = 1
        return stream

    def _check_header(self, limits: VideoLimits) -> None:
        """Refuses what the header says to be too much, before anything else is read."""
        context = self._stream.codec_context
        pixels = context.width * context.height
        if pixels > limits.max_pixels:
            self._too_large(f"{limits.max_pixels:,} pixels a frame", f"{context.width} x {context.height}")
        if self._stream.frames > limits.max_frames:
            self._too_large(f"{limits.max_frames:,} frames", f"{self._stream.frames:,}")
        if self._declared_s() > limits.max_s:
            self._too_large(f"{limits.max_s:g} s", f"{self._declared_s():.1f}")

    def _read_index(self, demuxer: str, limits: VideoLimits) -> None:
        """When each frame is shown, and where decoding can begin."""
        times: list[int | None] = []
        keys: list[tuple[int | None, int]] = []
        self._last_ticks = self._discarded = 0
        for packet in self._packets():
            if packet.is_discard:  # By an edit list: it is decoded, and not shown.
                self._discarded += 1
                continue
            if packet.is_keyframe or not times:
                found_by = packet.pts if packet.dts is None else packet.dts
                keys.append((packet.pts, found_by or 0))
            times.append(packet.pts)
            self._last_ticks = packet.duration or self._last_ticks
            if len(times) > limits.max_frames:
                self._too_large(f"{limits.max_frames:,} frames", "more")
        if not times:
            raise InvalidRequestError.of(self._field, "there is no frame in it", reason="VIDEO_UNREADABLE")
        self.count = len(times)
        known = sorted(time for time in times if time is not None)
        timed = len(set(known)) == self.count and not (demuxer == "avi" and self._codec in _UNTIMED_IN_AVI)
        self._times = known if timed else []
        self._numbers = {time: number for number, time in enumerate(self._times)}
        self._keys = [_Keyframe(0, keys[0][1])]
        if timed:
            self._keys += [_Keyframe(self._numbers[shown], by) for shown, by in keys[1:] if shown is not None]
            self._keys.sort()
        if self._duration_s() > limits.max_s:
            self._too_large(f"{limits.max_s:g} s", f"{self._duration_s():.1f}")

    def _packets(self) -> Iterator[Any]:
        """Whole packets, as far as the file goes."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not packet.is_corrupt:
                    yield packet
        except self._error:
            return

    def _forward(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        at = 0
        while at < len(wanted):
            key = self._key_before(wanted[at])
            for number, frame in self._from(wanted[at]):
                while at < len(wanted) and wanted[at] < number:
                    at += 1
                if at < len(wanted) and wanted[at] == number:
                    yield number, frame
                    at += 1
                if at == len(wanted):
                    return
                # Once for each keyframe: where one cannot be decoded, the way leads through the frames before it.
                ahead = self._key_before(wanted[at])
                if ahead > key and self._keys[ahead].number > number + _NEAR:
                    break
            else:
                return

    def _backward(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        most, at = self._piece(), 0
        while at < len(wanted):
            first = self._keys[self._key_before(wanted[at])].number
            piece = [number for number in wanted[at : at + most] if number >= first]
            at += len(piece)
            held = dict.fromkeys(piece)
            for number, frame in self._from(piece[-1]):
                if number in held:
                    held[number] = frame
                if number >= piece[0]:
                    break
            for number in piece:
                if (frame := held.pop(number)) is not None:
                    yield number, frame

    def _piece(self) -> int:
        """How many frames are held at once on the way backwards."""
        context = self._stream.codec_context
        frame_bytes = int(context.width * context.height * 3 // 2)
        return max(1, self._held_bytes // max(1, frame_bytes))

    def _from(self, number: int) -> Iterator[tuple[int, Any]]:
        """Frames from the keyframe before `number`, or the one before that if the demuxer does not find it."""
        key = self._key_before(number)
        for start in dict.fromkeys((key, max(0, key - 1))):
            frames = self._decoded(start)
            first = next(frames, None)
            if first is not None and first[0] <= number:
                break
        if first is not None:
            yield first
            yield from frames

    def _decoded(self, key: int) -> Iterator[tuple[int, Any]]:
        """What can be decoded from a keyframe on."""
        start = self._keys[key]
        try:
            self._container.seek(start.time, stream=self._stream)
        except self._error:
            return
        count = 0
        for packet in self._ended(self._packets()):
            try:
                frames = self._stream.codec_context.decode(packet)
            except self._error:  # Others may be whole.
                continue
            for frame in frames:
                self._decoded_one()
                number = self._numbers.get(frame.pts, -1) if self._times else count
                count += 1
                if number >= start.number and not frame.is_corrupt:
                    yield number, frame

    @staticmethod
    def _ended(packets: Iterator[Any]) -> Iterator[Any]:
        """Then the decoder gives what it has kept back."""
        yield from packets
        yield None

    def _key_before(self, number: int) -> int:
        return max(0, bisect_right(self._keys, number, key=lambda key: key.number) - 1)

    def _seconds(self, number: int) -> float:
        if self._times:
            return float((self._times[number] - self._times[0]) * self._stream.time_base)
        return number * self._duration_s() / self.count

    def _duration_s(self) -> float:
        """Until the end of the last frame; above 0."""
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0) or 25.0
        if not self._times:
            return self.count / rate
        last = self._last_ticks * self._stream.time_base or 1 / rate
        return float((self._times[-1] - self._times[0]) * self._stream.time_base + last) or 1 / rate

    def _declared_s(self) -> float:
        """What the header says; 0 if it does not."""
        container_s = (self._container.duration or 0) / 1_000_000
        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        return container_s

    def _missing(self, duration_s: float) -> int:
        """By the header's number of frames, or else by its duration where no sound can make that longer."""
        if self._stream.frames:
            return max(0, int(self._stream.frames) - self.count - self._discarded)
        gap_s = self._declared_s() - duration_s if len(self._container.streams) == 1 else 0
        return max(0, round(gap_s * self.count / duration_s))

    def _too_large(self, most: str, got: str) -> None:
        raise InvalidRequestError.of(self._field, f"expected at most {most}, got {got}", reason="VIDEO_TOO_LARGE")


def _is_backward(wanted: Sequence[int]) -> bool:
    return len(wanted) > 1 and wanted[0] > wanted[-1]


def _quarter_turns(frame: Any) -> int:
    """How often it is to be turned counterclockwise."""
    return int(round(frame.rotation / 90) % 4)


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
