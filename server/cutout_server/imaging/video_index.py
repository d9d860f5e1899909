"""When each frame of a video is shown, and where decoding can begin: read from its packets, without decoding any."""

from bisect import bisect_right
from typing import NamedTuple

from cutout_server.imaging.video import VideoLimits
from cutout_server.imaging.video_container import Container

_MANY = 2**32 - 1  # What the contract can say; headers say anything.


class Keyframe(NamedTuple):
    """Where decoding can begin: a frame's number, and the time by which the demuxer finds its packet."""

    number: int
    time: int


class Index:
    """Frames numbered from 0 in the order in which they are shown, by the times of their packets.

    Attributes:
        count: How many are in the file.
        keys: Ascending; the first is frame 0.

    Raises:
        InvalidRequestError: There is none, or there are more than there may be.
    """

    def __init__(self, file: Container, limits: VideoLimits) -> None:
        self._file, self._stream = file, file.stream
        times: list[int | None] = []
        keys: list[tuple[int | None, int]] = []
        self._last_ticks = self._discarded = 0
        for packet in file.packets():
            if packet.is_discard:  # By an edit list: it is decoded, and not shown.
                self._discarded += 1
                continue
            if packet.is_keyframe or not times:
                found_by = packet.pts if packet.dts is None else packet.dts
                keys.append((packet.pts, found_by or 0))
            times.append(packet.pts)
            self._last_ticks = max(packet.duration or 0, 0) or self._last_ticks
            if len(times) > limits.max_frames:
                raise file.too_large(f"{limits.max_frames:,} frames", "more")
        if not times:
            raise file.unreadable("there is no frame in it")
        self.count = len(times)
        known = sorted(time for time in times if time is not None)
        self._times = known if file.is_timed and len(set(known)) == self.count else []
        self._numbers: dict[int | None, int] = {time: number for number, time in enumerate(self._times)}
        self.keys = [Keyframe(0, keys[0][1])]
        if self._times:
            self.keys += [Keyframe(self._numbers[shown], by) for shown, by in keys[1:] if shown is not None]
            self.keys.sort()
        if self.duration_s() > limits.max_s:
            raise file.too_large(f"{limits.max_s:g} s", f"{self.duration_s():.1f}")

    def key_before(self, number: int) -> int:
        """Which of the keyframes is the last up to a frame."""
        return max(0, bisect_right(self.keys, number, key=lambda key: key.number) - 1)

    def number(self, time: int | None, ordinal: int) -> int:
        """A decoded frame's number, by its time; or, in a file without times, by how many were decoded before it."""
        return self._numbers.get(time, -1) if self._times else ordinal

    def seconds(self, number: int) -> float:
        """When a frame is shown, from the first one on."""
        if self._times:
            return float((self._times[number] - self._times[0]) * self._stream.time_base)
        return number * self.duration_s() / self.count

    def duration_s(self) -> float:
        """Until the end of the last frame; above 0."""
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0) or 25.0
        if not self._times:
            return self.count / rate
        last = self._last_ticks * self._stream.time_base or 1 / rate
        return float((self._times[-1] - self._times[0]) * self._stream.time_base + last) or 1 / rate

    def missing(self) -> int:
        """How many frames the header promises beyond the last one.

        By its number of frames, or else by its duration where no sound can make that longer. Where it says that the
        video ends here, frames are left out on purpose, by an edit list.
        """
        duration_s = self.duration_s()
        gap = (self._file.declared_s() - duration_s) * self.count / duration_s
        if gap < 0.5:
            return 0
        if self._stream.frames:
            return max(0, int(self._stream.frames) - self.count - self._discarded)
        return min(round(gap), _MANY) if self._file.is_alone else 0
