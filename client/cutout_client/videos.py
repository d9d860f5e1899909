"""The methods of `Client` about videos."""

from collections.abc import Iterable
from os import PathLike
from typing import Unpack

from cutout_client import administration, stored
from cutout_client.calls import Calls
from cutout_client.images import ImageLike
from cutout_client.keywords import lists_arguments
from cutout_client.live import LiveStream
from cutout_client.live_state import LiveState
from cutout_client.stored import StoredVideo, VideoLike, VideoTrackOptions, VideoTrackStream, VideoUpload, video_id_of
from cutout_client.tracked import Frame, LiveOptions, beginning
from cutout_client.video import frames_of


@lists_arguments
class Videos:
    """What a `Client` does with videos: cameras and other frames as they come, files, and what the server stored.

    `timeout_s` and `request_id` are those of `Client`.
    """

    _calls: Calls

    def live(
        self,
        frames: Iterable[ImageLike | Frame],
        *,
        newest: bool = False,
        request_id: str = "",
        **options: Unpack[LiveOptions],
    ) -> LiveStream:
        """Follows objects through frames as they come: `for frame in client.live(camera, boxes=box)`.

        Args:
            frames: Pictures, or `Frame`s with further prompts; all of one size.
            newest: Drop frames that come faster than they are worked on; each answer says which. Default: wait.
            request_id: See the class.
            options: What to follow, and how: those of `LiveOptions`.
        """
        state = LiveState(*beginning(options, newest=newest), self._calls.call(None, request_id))
        return LiveStream(self._calls.link, frames, state, resume=options.get("resume", True))

    def track(
        self,
        video: str | PathLike[str],
        *,
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        request_id: str = "",
        **options: Unpack[LiveOptions],
    ) -> LiveStream:
        """Follows objects through a video file: `for frame in client.track("video.mp4", boxes=box)`.

        It is decoded here, by OpenCV (extra `video`), as far as its frames are needed.

        Args:
            video: Path of an MP4, MOV, MKV, WebM or AVI.
            start: The first frame, from 0.
            end: The one behind the last; None for all.
            every: Each how many-th frame.
            request_id: See the class.
            options: What to follow, and how: those of `LiveOptions`. The first frame is that of `start`.
        """
        frames = frames_of(video, start=start, end=end, every=every)
        return self.live(frames, request_id=request_id, **options)

    def upload_video(self, video: VideoLike, *, timeout_s: float | None = None, request_id: str = "") -> StoredVideo:
        """Stores a video for `track_video`, and for its frames as pictures: `video.frame(12)`.

        Args:
            video: Path of an MP4, MOV, MKV, WebM or AVI, which is read in pieces, or its bytes.
            timeout_s: See the class.
            request_id: See the class.

        Raises:
            FileNotFoundError: The path names no file.
        """
        file = VideoUpload.of(video)
        return self._calls.ask(stored.upload(file), timeout_s, request_id)

    def video(self, video: StoredVideo | str, *, timeout_s: float | None = None, request_id: str = "") -> StoredVideo:
        """What is known of a stored video, by its id."""
        return self._calls.ask(administration.GET_VIDEO(video_id=video_id_of(video)), timeout_s, request_id)

    def delete_video(self, video: StoredVideo | str, *, timeout_s: float | None = None, request_id: str = "") -> None:
        """Forgets a stored video."""
        return self._calls.ask(administration.DELETE_VIDEO(video_id=video_id_of(video)), timeout_s, request_id)

    def track_video(
        self,
        video: StoredVideo | str,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[VideoTrackOptions],
    ) -> VideoTrackStream:
        """Follows objects through a stored video, on the server: `for frame in client.track_video(video, ...)`.

        Args:
            video: What `upload_video` answered, or its id.
            timeout_s: Seconds for the whole answer. Default: as long as it takes.
            request_id: See the class.
            options: What to follow, and how: those of `VideoTrackOptions`.
        """
        return VideoTrackStream(*self._calls.stream(stored.follow(video, options), timeout_s, request_id))
