"""The methods of `AsyncClient` about videos."""

import asyncio
from collections.abc import AsyncIterable, Iterable
from os import PathLike
from typing import Unpack

from cutout_client import administration, stored
from cutout_client.aio_live import AsyncLiveStream
from cutout_client.calls import AsyncCalls
from cutout_client.images import ImageLike
from cutout_client.keywords import lists_arguments
from cutout_client.live_state import LiveState
from cutout_client.stored import (
    AsyncVideoTrackStream,
    StoredVideo,
    VideoLike,
    VideoTrackOptions,
    VideoUpload,
    video_id_of,
)
from cutout_client.tracked import Frame, LiveOptions, beginning
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
        newest: bool = False,
        request_id: str = "",
        **options: Unpack[LiveOptions],
    ) -> AsyncLiveStream:
        """As `Client.live`: `async for frame in client.live(...)`; frames may come from an async iterator, too."""
        state = LiveState(*beginning(options, newest=newest), self._calls.call(None, request_id))
        return AsyncLiveStream(self._calls.link, frames, state, resume=options.get("resume", True))

    def track(
        self,
        video: str | PathLike[str],
        *,
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        request_id: str = "",
        **options: Unpack[LiveOptions],
    ) -> AsyncLiveStream:
        """As `Client.track`: `async for frame in client.track(...)`."""
        frames = frames_of(video, start=start, end=end, every=every)
        return self.live(frames, request_id=request_id, **options)

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
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[VideoTrackOptions],
    ) -> AsyncVideoTrackStream:
        """As `Client.track_video`: `async for frame in client.track_video(...)`."""
        return AsyncVideoTrackStream(*self._calls.stream(stored.follow(video, options), timeout_s, request_id))
