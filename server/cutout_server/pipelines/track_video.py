"""Objects followed through a stored video: forward, backward, or both, each pass a session of its own."""

import itertools
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass, replace

from cutout_common.status import FieldViolation

from cutout_server import call_context
from cutout_server.errors import InvalidRequestError
from cutout_server.images.store import StoredVideo
from cutout_server.images.videos import Videos
from cutout_server.pipelines.finding import Finder
from cutout_server.pipelines.said import Said
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.pipelines.track import Tracking, TrackPipeline
from cutout_server.pools.retrying import until_there_is_room
from cutout_server.types import (
    Direction,
    FoundObjects,
    FramePrompt,
    FrameRequest,
    TensorImage,
    TrackedFrame,
    VideoPrompt,
    VideoTrackRequest,
)


@dataclass(frozen=True)
class FollowedFrame:
    """A frame with its objects.

    Attributes:
        frame: Numbered as in the video.
        found: What phrases found in it; None when there were none.
        direction: The way that it was come to.
        done: Frames that are behind us.
        stages: Where its time went.
    """

    frame: TrackedFrame
    found: FoundObjects | None
    direction: Direction
    done: int
    stages: call_context.Stages


class VideoTrackPipeline:
    """Opens what follows objects through stored videos."""

    def __init__(
        self, tracking: TrackPipeline, segmentation: SegmentPipeline, videos: Videos, *, max_objects: int
    ) -> None:
        self._tracking = tracking
        self._segmentation = segmentation
        self._videos = videos
        self._max_objects = max_objects

    def open(self, request: VideoTrackRequest) -> "Following":
        """What follows the objects of a request.

        Raises:
            CutoutError: There is no such video or model, or the request's frames are not in the video.
        """
        video = self._videos.find(request.video_id)
        end = video.header.frames if request.end_frame is None else request.end_frame
        _check_range(request, end, video.header.frames)
        for prompt in request.prompts:
            if prompt.phrases is not None:
                self._segmentation.check(prompt.phrases)
        tracker = self._tracking.choose(request.tracking).name
        return Following(
            request, end, video, tracker, self._tracking, self._segmentation, self._videos, self._max_objects
        )


class Following:
    """Objects on their way through a video. Their frames can be taken once.

    Attributes:
        tracker: Name of the model.
        video: What they are followed through.
        total: How many frames are to be worked on, in all passes.
        worked: How many were.
        unreadable: Those that could not be decoded.
    """

    def __init__(
        self,
        request: VideoTrackRequest,
        end: int,
        video: StoredVideo,
        tracker: str,
        tracking: TrackPipeline,
        segmentation: SegmentPipeline,
        videos: Videos,
        max_objects: int,
    ) -> None:
        self.tracker = tracker
        self.video = video
        self.worked = 0
        self.unreadable: set[int] = set()
        self._request = request
        self._tracking = tracking
        self._videos = videos
        self._said = Said(request, end)
        self._begun: dict[int, tuple[int, FramePrompt]] = {}  # By object: its first frame, and what was said there.
        self._finder = Finder(segmentation, max_objects=max_objects)
        self._finder.used(number for prompt in request.prompts for number in prompt.prompts)
        grid = sorted({*range(request.start_frame, end, request.every), *self._said})
        first, last = min(self._said), max(self._said)
        if request.direction is Direction.BOTH:
            last = self._said.last_beginning()
        self._ahead = [n for n in grid if n >= first] if request.direction is not Direction.BACKWARD else []
        self._back = [n for n in reversed(grid) if n <= last] if request.direction is not Direction.FORWARD else []
        self.total = len(self._ahead) + len(self._back)
        self._done = 0

    def held(self) -> AbstractContextManager[None]:
        """A place for the video among those that are read, for the block that takes the frames; see `Videos.held`."""
        return self._videos.held(self.video)

    async def frames(self) -> AsyncGenerator[FollowedFrame]:
        """Frames with their objects, as they are asked for.

        Raises:
            CutoutError: A prompt cannot be used, its frame cannot be decoded, or the server cannot go on.
        """
        if self._ahead:
            async with aclosing(self._through(self._ahead, Direction.FORWARD, self._said, self._back)) as ahead:
                async for followed in ahead:
                    yield followed
        if self._request.direction is Direction.BOTH:
            begun: dict[int, dict[int, FramePrompt]] = {}
            for number, (frame, prompt) in self._begun.items():
                begun.setdefault(frame, {})[number] = prompt
            again = {frame: (0, VideoPrompt(frame, prompts, None)) for frame, prompts in begun.items()}
            numbers = [number for number in self._back if number <= max(begun, default=-1)]
            self._done += len(self._back) - len(numbers)
            async with aclosing(self._through(numbers, Direction.BACKWARD, again)) as back:
                async for followed in back:
                    # Where an object begins the way forward has shown it.
                    here = begun.get(followed.frame.index, {})
                    rest = tuple(each for each in followed.frame.objects if each.object_id not in here)
                    if rest:
                        yield replace(followed, frame=replace(followed.frame, objects=rest))
        elif self._back:
            async with aclosing(self._through(self._back, Direction.BACKWARD, self._said)) as back:
                async for followed in back:
                    yield followed

    async def _through(
        self,
        numbers: Sequence[int],
        direction: Direction,
        said: Mapping[int, tuple[int, VideoPrompt]],
        later: Sequence[int] = (),
    ) -> AsyncGenerator[FollowedFrame]:
        ordinals, waiting = itertools.count(), iter(numbers)
        async with (
            self._tracking.open(self._request.tracking) as tracking,
            self._videos.read(self.video, numbers, later) as decoded,
        ):
            while True:
                with call_context.part():
                    with call_context.stage("decode"):
                        frame = await anext(decoded, None)
                    for number in waiting:
                        self._done += 1
                        if frame is not None and number == frame.number:
                            break
                        self._pass_over(number, said)
                    if frame is None:
                        return
                    index, prompt = said.get(frame.number, (0, VideoPrompt(frame.number, {}, None)))
                    with _named(index):
                        image = TensorImage(frame.pixels)
                        found, news = await self._work(tracking, ordinals, image, prompt)
                    found = replace(found, index=frame.number, timestamp_s=frame.seconds)
                    followed = FollowedFrame(found, news, direction, self._done, call_context.current().stages)
                self.worked += 1
                yield followed

    def _pass_over(self, number: int, said: Mapping[int, tuple[int, VideoPrompt]]) -> None:
        """Counts a frame that cannot be decoded; without it what is said of it would be lost in silence."""
        self.unreadable.add(number)
        if number in said and said[number][1].is_needed:
            what = f"expected a frame that can be decoded, got {number}"
            raise InvalidRequestError.of(f"prompts[{said[number][0]}].frame", what, reason="VIDEO_UNREADABLE")

    async def _work(
        self, tracking: Tracking, ordinals: Iterator[int], image: TensorImage, said: VideoPrompt
    ) -> tuple[TrackedFrame, FoundObjects | None]:
        async def ask() -> TrackedFrame:
            return await tracking.frame(FrameRequest(next(ordinals), image, None, said.prompts))

        frame = await until_there_is_room(ask)
        self._note(said.frame, said.prompts)
        if said.phrases is None:
            return frame, None
        finds = await self._finder.find(image, said.phrases, may_fail=said.phrases_again)
        frame, news, prompts = await self._finder.begin(tracking, finds, frame, said.frame)
        self._note(said.frame, prompts)
        return frame, news

    def _note(self, frame: int, prompts: Mapping[int, FramePrompt]) -> None:
        """Where objects begin, for the way back."""
        if self._request.direction is Direction.BOTH:
            for number, prompt in prompts.items():
                self._begun.setdefault(number, (frame, prompt))


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Puts the request's field before those of violations in a frame."""
    try:
        yield
    except InvalidRequestError as error:
        raise error.renamed(
            lambda field: f"prompts[{index}].{field}" if field.startswith(("prompts", "phrases")) else field
        ) from None


def _check_range(request: VideoTrackRequest, end: int, count: int) -> None:
    """Raises InvalidRequestError unless the request's frames are in the video."""
    violations = []
    if request.start_frame >= count:
        violations.append(FieldViolation("start_frame", f"expected less than {count}, got {request.start_frame}"))
    if end > count:
        violations.append(FieldViolation("end_frame", f"expected at most {count}, got {end}"))
    violations += [
        FieldViolation(
            f"prompts[{index}].frame", f"expected one in [{request.start_frame}, {min(end, count)}), got {prompt.frame}"
        )
        for index, prompt in enumerate(request.prompts)
        if not request.start_frame <= prompt.frame < min(end, count)
    ]
    if violations:
        raise InvalidRequestError(*violations)
