"""The methods of `Client` about videos."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Unpack

from cutout_client import administration, stored
from cutout_client.calls import Calls
from cutout_client.images import ImageLike
from cutout_client.keywords import lists_arguments
from cutout_client.live import LiveStream
from cutout_client.live_state import LiveState
from cutout_client.prompts import Boxes
from cutout_client.stored import (
    Direction,
    StoredVideo,
    VideoLike,
    VideoTrackStream,
    VideoUpload,
    track_request,
    video_id_of,
)
from cutout_client.tracked import Frame, TrackOptions, TrackPrompt, first_prompts
from cutout_client.tracked import opening as tracking_opening
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
        boxes: Boxes | None = None,
        prompts: Mapping[int, TrackPrompt] | None = None,
        tracker: str = "",
        newest: bool = False,
        held_frames: int = 0,
        phrases: str | Sequence[str] = (),
        phrases_every: int = 0,
        detector: str = "",
        segmenter: str = "",
        resume: bool = True,
        request_id: str = "",
        **options: Unpack[TrackOptions],
    ) -> LiveStream:
        """Follows objects through frames as they come: `for frame in client.live(camera, boxes=box)`.

        Args:
            frames: Pictures, or `Frame`s with further prompts; all of one size.
            boxes: In the first frame, x_min, y_min, x_max, y_max each: objects 1, 2 and so on.
            prompts: In the first frame, by object.
            tracker: Name of the model. Default: the server's.
            newest: Drop frames that come faster than they are worked on; each answer says which. Default: wait.
            held_frames: How many answered frames can be corrected. Default: 4.
            phrases: What to look for in the first frame; what is found begins as objects, and `names` of the answer say
                which.
            phrases_every: Look for phrases again so many frames on, and again; what is new joins. Default: 0, once.
            detector: Name of the model that finds. Default: the server's.
            segmenter: Name of the model that cuts out what phrases find. Default: the server's.
            resume: Whether to go on at another server, or at the same one again, when this one is lost or stops; it is
                tried for the client's timeout, 60 s without one. See `LiveStream`.
            request_id: See the class.
            options: Those of `TrackOptions`.
        """
        opening = tracking_opening(
            tracker,
            held_frames,
            options,
            newest=newest,
            detector=detector,
            segmenter=segmenter,
            phrases_every=phrases_every,
        )
        call = self._calls.call(None, request_id)
        state = LiveState(opening, first_prompts(boxes, prompts), phrases, call)
        return LiveStream(self._calls.link, frames, state, resume=resume)

    def track(
        self,
        video: str | PathLike[str],
        *,
        boxes: Boxes | None = None,
        prompts: Mapping[int, TrackPrompt] | None = None,
        tracker: str = "",
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        held_frames: int = 0,
        phrases: str | Sequence[str] = (),
        phrases_every: int = 0,
        detector: str = "",
        segmenter: str = "",
        resume: bool = True,
        request_id: str = "",
        **options: Unpack[TrackOptions],
    ) -> LiveStream:
        """Follows objects through a video file: `for frame in client.track("video.mp4", boxes=box)`.

        It is decoded here, by OpenCV (extra `video`), as far as its frames are needed.

        Args:
            video: Path of an MP4, MOV, MKV, WebM or AVI.
            boxes: See `live`; in the frame `start`.
            prompts: Likewise.
            tracker: See `live`.
            start: The first frame, from 0.
            end: The one behind the last; None for all.
            every: Each how many-th frame.
            held_frames: See `live`.
            phrases: Likewise, in the frame `start`.
            phrases_every: See `live`.
            detector: See `live`.
            segmenter: See `live`.
            resume: See `live`.
            request_id: See the class.
            options: Those of `TrackOptions`.
        """
        return self.live(
            frames_of(video, start=start, end=end, every=every),
            boxes=boxes,
            prompts=prompts,
            tracker=tracker,
            held_frames=held_frames,
            phrases=phrases,
            phrases_every=phrases_every,
            detector=detector,
            segmenter=segmenter,
            resume=resume,
            request_id=request_id,
            **options,
        )

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
        prompts: Mapping[int, Mapping[int, TrackPrompt]] | None = None,
        phrases: Mapping[int, str | Sequence[str]] | None = None,
        direction: Direction = "forward",
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        tracker: str = "",
        detector: str = "",
        segmenter: str = "",
        phrases_every: int = 0,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[TrackOptions],
    ) -> VideoTrackStream:
        """Follows objects through a stored video, on the server: `for frame in client.track_video(video, ...)`.

        Args:
            video: What `upload_video` answered, or its id.
            prompts: By frame and object: what is known of objects. An id that is new begins one.
            phrases: By frame: what to look for there. What is found begins as objects; the answer's `names` say which.
            direction: "forward" from the first frame with prompts, "backward" from the last one, or "both".
            start: The first frame, from 0.
            end: The one behind the last; None for all.
            every: Each how many-th frame; those with prompts come in any case.
            tracker: Name of the model. Default: the server's.
            detector: Name of the model that finds. Default: the server's.
            segmenter: Name of the model that cuts out what phrases find. Default: the server's.
            phrases_every: Look for phrases again so many frames on, and again; what is new joins. Default: 0, once.
            timeout_s: Seconds for the whole answer. Default: as long as it takes.
            request_id: See the class.
            options: Those of `TrackOptions`.
        """
        request = track_request(
            video,
            prompts=prompts,
            phrases=phrases,
            direction=direction,
            start=start,
            end=end,
            every=every,
            tracker=tracker,
            detector=detector,
            segmenter=segmenter,
            phrases_every=phrases_every,
            options=options,
        )
        return VideoTrackStream(*self._calls.stream(stored.follow(request), timeout_s, request_id))
