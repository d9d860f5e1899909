"""The frames of a video file here that belong to those which a server names."""

from cutout_client.stored import StoredVideo
from cutout_client.tracked import Frame, TrackedFrame
from cutout_client.video import Video


class Shown:
    """Frames by the time at which they are shown, ascending.

    OpenCV counts the frames that it can decode, the server all that are in the file: where a file begins in the middle
    of a group, or is damaged, the two count differently. Of AVI, whose frames often have no times, they count the same.

    Args:
        video: All frames of the file.
        stored: The same file on the server.
    """

    def __init__(self, video: Video, stored: StoredVideo) -> None:
        self._rate = stored.frame_rate
        self._is_timed = stored.content_type != "video/x-msvideo"
        self._frames = iter(video)
        self._here, self._next = next(self._frames, None), next(self._frames, None)

    def at(self, found: TrackedFrame) -> Frame | None:
        """The frame on which objects were found; None if it cannot be read here."""
        while self._here and self._next and self._between(self._next, found) < self._between(self._here, found):
            self._here, self._next = self._next, next(self._frames, None)
        return self._here if self._here and self._between(self._here, found) < 0.5 else None

    def _between(self, frame: Frame, found: TrackedFrame) -> float:
        """How many frames one is from the other."""
        if self._is_timed and frame.timestamp_s is not None and found.timestamp_s is not None:
            return abs(frame.timestamp_s - found.timestamp_s) * self._rate
        return abs((frame.index or 0) - found.index)
