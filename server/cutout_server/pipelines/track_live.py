"""Objects followed through frames as they come, with words among what is said of them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from cutout_server.pipelines.finding import Finder
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.pipelines.track import Tracking, TrackPipeline
from cutout_server.types import CorrectionRequest, FrameRequest, LiveRequest, TextRequest, TrackedFrame


class LiveTrackPipeline:
    """Opens live sessions."""

    def __init__(self, tracking: TrackPipeline, segmentation: SegmentPipeline, *, max_objects: int) -> None:
        self._tracking = tracking
        self._segmentation = segmentation
        self._max_objects = max_objects

    @asynccontextmanager
    async def open(self, request: LiveRequest) -> AsyncIterator["LiveTracking"]:
        """A session; see `TrackPipeline.open`."""
        async with self._tracking.open(request.tracking) as tracking:
            finder = Finder(self._segmentation, max_objects=self._max_objects, first_id=request.first_found_id)
            yield LiveTracking(tracking, finder, request.phrases_every)


class LiveTracking:
    """The objects of a session. One thing at a time is asked of it.

    Args:
        tracking: What follows them.
        finder: What finds what words say.
        phrases_every: After so many frames words are looked for again; 0 for never.
    """

    def __init__(self, tracking: Tracking, finder: Finder, phrases_every: int) -> None:
        self._tracking = tracking
        self._finder = finder
        self._phrases_every = phrases_every
        self._phrases: TextRequest | None = None  # Those that were named last.
        self._since = 0  # Frames that were worked on since they were looked for.

    @property
    def tracker(self) -> str:
        """Name of the model that follows."""
        return self._tracking.tracker.name

    async def frame(self, request: FrameRequest) -> TrackedFrame:
        """As `Tracking.frame`; what words find begins there.

        Words that the frame itself names refuse it if they cannot be looked for; those that are only due again do not.
        """
        since, phrases = self._since, request.phrases
        are_due = phrases is None and 0 < self._phrases_every <= since + 1
        if are_due:
            phrases = self._phrases
            self._since = 0  # What takes longer than a frame may take is not tried again in each frame.
        # Before the frame is worked on: if it is refused for its words, it is as if it had not come.
        may_fail = are_due or request.phrases_optional
        finds = None if phrases is None else await self._finder.find(request.image, phrases, may_fail=may_fail)
        self._since = since
        frame = await self._tracking.frame(request)
        self._finder.used(request.prompts)
        self._since += 1
        if phrases is None or finds is None:
            return frame
        self._phrases, self._since = phrases, 0
        frame, found, _ = await self._finder.begin(self._tracking, finds, frame)
        return replace(frame, found=found)

    async def correct(self, request: CorrectionRequest) -> TrackedFrame:
        """As `Tracking.correct`."""
        frame = await self._tracking.correct(request)
        self._finder.used(request.prompts)
        return frame

    def remove(self, object_ids: Sequence[int]) -> list[int]:
        """As `Tracking.remove`."""
        return self._tracking.remove(object_ids)

    def dropped(self, frames: int) -> None:
        """As `Tracking.dropped`."""
        self._tracking.dropped(frames)
