"""The methods of `AsyncClient` about videos."""

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Unpack

from cutout_client import administration, stored
from cutout_client.aio_live import AsyncLiveStream
from cutout_client.calls import AsyncCalls
from cutout_client.images import ImageLike
from cutout_client.keywords import lists_arguments
from cutout_client.live_state import LiveState
from cutout_client.prompts import Boxes
from cutout_client.stored import (
    AsyncVideoTrackStream,
    Direction,
    StoredVideo,
    VideoLike,
    VideoUpload,
    track_request,
    video_id_of,
)
from cutout_client.tracked import Frame, TrackOptions, TrackPrompt, first_prompts
from cutout_client.tracked import opening as tracking_opening
from cutout_client.video import frames_of


@lists_arguments
class AsyncVideos:
    """What an `AsyncClient` does with videos: cameras and other frames as they come, files, and what the server stored.

    `timeout_s` and `request_id` are those of `Client`.
    """

    _calls: AsyncCalls

    def live(
        self,
        frames: Iterable[ImageLike | Frame] | AsyncIterable[ImageLike | Frame],
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
    ) -> AsyncLiveStream:
        """As `Client.live`: `async for frame in client.live(...)`; frames may come from an async iterator, too."""
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
        return AsyncLiveStream(self._calls.link, frames, state, resume=resume)

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
    ) -> AsyncLiveStream:
        """As `Client.track`: `async for frame in client.track(...)`."""
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

    async def upload_video(
        self, video: VideoLike, *, timeout_s: float | None = None, request_id: str = ""
    ) -> StoredVideo:
        """As `Client.upload_video`."""
        file = await asyncio.to_thread(VideoUpload.of, video)
        return await self._calls.ask(stored.upload(file), timeout_s, request_id)

    async def video(
        self, video: StoredVideo | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> StoredVideo:
        """As `Client.video`."""
        return await self._calls.ask(administration.GET_VIDEO(video_id=video_id_of(video)), timeout_s, request_id)

    async def delete_video(
        self, video: StoredVideo | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> None:
        """As `Client.delete_video`."""
        return await self._calls.ask(administration.DELETE_VIDEO(video_id=video_id_of(video)), timeout_s, request_id)

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
    ) -> AsyncVideoTrackStream:
        """As `Client.track_video`: `async for frame in client.track_video(...)`."""
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
        return AsyncVideoTrackStream(*self._calls.stream(stored.follow(request), timeout_s, request_id))
