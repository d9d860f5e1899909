"""Frames of a video in an order that goes one way: from the keyframe before them on, each group as rarely as it can."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.video_container import Container
from cutout_server.imaging.video_index import Index

# On the way forward so many frames are sooner decoded than passed over by a seek.
_NEAR = 16
# On the way backwards a group is decoded in pieces if it is too long to be held, from its keyframe on for each.
_MOST_PIECES = 32


class Decoding:
    """What decodes a file's frames, as PyAV gives them.

    Args:
        file: The file.
        index: Its index.
        held_bytes: Decoded frames that are held on the way backwards.
        decoded: Called after each frame that was decoded, wanted or not.
    """

    def __init__(self, file: Container, index: Index, held_bytes: int, decoded: Callable[[], None]) -> None:
        self._file = file
        self._index = index
        self._piece = max(1, held_bytes // file.frame_bytes)  # Frames that are held at once.
        self._decoded_one = decoded

    def first(self) -> Any:
        """The first frame that can be decoded; None if none can be."""
        return next(self._decoded(0), (0, None))[1]

    def check(self, wanted: Sequence[int]) -> None:
        """Refuses a way that would decode frames again and again, before anything is decoded; see `VideoFile.check`."""
        if not _is_backward(wanted):
            return
        most = _MOST_PIECES * self._piece
        for key, count in Counter(map(self._index.key_before, wanted)).items():
            if count > most:
                first = self._index.keys[key].number
                what = (
                    f"expected FORWARD, a larger every or a shorter range: at most {most} frames of this size that "
                    f"have one keyframe can be gone back through, and behind frame {first} there are {count}; or "
                    "convert the video to have more keyframes"
                )
                raise InvalidRequestError.of("direction", what, reason="VIDEO_TOO_FEW_KEYFRAMES")

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Numbers and frames as they are asked for; those that cannot be decoded are passed over."""
        return self._backward(wanted) if _is_backward(wanted) else self._forward(wanted)

    def _forward(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        index, at = self._index, 0
        while at < len(wanted):
            key = index.key_before(wanted[at])
            for number, frame in self._from(wanted[at]):
                while at < len(wanted) and wanted[at] < number:
                    at += 1
                if at < len(wanted) and wanted[at] == number:
                    yield number, frame
                    at += 1
                if at == len(wanted):
                    return
                # Once for each keyframe: where one cannot be decoded, the way leads through the frames before it.
                ahead = index.key_before(wanted[at])
                if ahead > key and index.keys[ahead].number > number + _NEAR:
                    break
            else:
                return

    def _backward(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        index, at = self._index, 0
        while at < len(wanted):
            first = index.keys[index.key_before(wanted[at])].number
            piece = [number for number in wanted[at : at + self._piece] if number >= first]
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

    def _from(self, number: int) -> Iterator[tuple[int, Any]]:
        """Frames from the keyframe before `number`, or the one before that if the demuxer does not find it."""
        key = self._index.key_before(number)
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
        start = self._index.keys[key]
        if not self._file.seek(start.time):
            return
        ordinal = 0
        for packet in _ended(self._file.packets()):
            try:
                frames = self._file.stream.codec_context.decode(packet)
            except MemoryError:
                raise
            except self._file.error:  # Others may be whole.
                continue
            for frame in frames:
                self._decoded_one()
                number = self._index.number(frame.pts, ordinal)
                ordinal += 1
                if number >= start.number and not frame.is_corrupt:
                    yield number, frame


def _ended(packets: Iterator[Any]) -> Iterator[Any]:
    """Then the decoder gives what it has kept back."""
    yield from packets
    yield None


def _is_backward(wanted: Sequence[int]) -> bool:
    return len(wanted) > 1 and wanted[0] > wanted[-1]
