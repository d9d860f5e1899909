"""The way of a frame: a slot, the picture, its embedding, every object in it, masks. What stays is the session's."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cutout_common.status import FieldViolation

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.errors import InvalidRequestError
from cutout_server.images.pictures import Pictures
from cutout_server.imaging import masks
from cutout_server.models.operations import TRACK
from cutout_server.models.queries import Sighting, Tracked, TrackQuery
from cutout_server.pipelines.followed import Followed
from cutout_server.pipelines.kinds.prompts import fitted
from cutout_server.pipelines.tracked_masks import TrackedMasks
from cutout_server.pools.placement import Pools, Slot
from cutout_server.pools.remembered import Remembered, SessionMemory
from cutout_server.pools.retrying import until_there_is_room
from cutout_server.types import (
    CorrectionRequest,
    FramePrompt,
    FrameRequest,
    ObjectPrompt,
    Picture,
    PromptsRequest,
    Rle,
    Task,
    TrackedFrame,
    TrackedObject,
    TrackingRequest,
)


class TrackPipeline:
    """Opens sessions that follow objects."""

    def __init__(
        self,
        catalogue: Catalogue,
        pools: Pools,
        pictures: Pictures,
        executor: Executor,
        remembered: Remembered,
        *,
        max_objects: int,
        max_message_bytes: int,
    ) -> None:
        self._catalogue = catalogue
        self._pools = pools
        self._pictures = pictures
        self._executor = executor
        self._remembered = remembered
        self._max_objects = max_objects
        self._max_message_bytes = max_message_bytes

    def choose(self, request: TrackingRequest) -> ModelSpec:
        """The model that a session would have; raises as `open` does."""
        return self._catalogue.choose(request.tracker, Task.TRACK, "tracker")

    @asynccontextmanager
    async def open(self, request: TrackingRequest) -> AsyncIterator["Tracking"]:
        """A session; when the block ends nothing is left of it.

        Raises:
            FailedPreconditionError: No model follows objects.
            InvalidRequestError: There is no model of that name, or it follows none.
        """
        tracker = self.choose(request)
        with self._remembered.session(tracker.name, request.held_frames) as memory:
            async with AsyncExitStack() as stack:
                tracking = Tracking(
                    request,
                    tracker,
                    self._pools,
                    self._pictures,
                    self._executor,
                    memory,
                    self._max_objects,
                    self._max_message_bytes,
                )
                stack.push_async_callback(tracking.close)
                yield tracking


@dataclass(frozen=True)
class _HeldFrame:
    """A frame that can be corrected still.

    Attributes:
        number: Among those that were looked at.
        picture: It is read for as long as `room` is open.
    """

    number: int
    timestamp_s: float | None
    picture: Picture
    room: AsyncExitStack


class Tracking:
    """The objects of a session and the frames that it holds. One thing at a time is asked of it.

    Attributes:
        tracker: Which model follows the objects.
    """

    def __init__(
        self,
        request: TrackingRequest,
        tracker: ModelSpec,
        pools: Pools,
        pictures: Pictures,
        executor: Executor,
        memory: SessionMemory,
        max_objects: int,
        max_message_bytes: int,
    ) -> None:
        self.tracker = tracker
        self._request = request
        self._pools = pools
        self._pictures = pictures
        self._executor = executor
        self._memory = memory
        self._max_objects = max_objects
        self._masks = TrackedMasks(request, tracker, executor, max_message_bytes)
        self._objects: dict[int, Followed] = {}
        self._held: OrderedDict[int, _HeldFrame] = OrderedDict()
        self._looked_at = 0
        self._latest = -1
        self._size: tuple[int, int] | None = None
        self._device = ""

    async def frame(self, request: FrameRequest) -> TrackedFrame:
        """Finds every object in a frame.

        Raises:
            CutoutError: The frame or its prompts cannot be used; the session is as if it had not come.
        """
        if request.index <= self._latest:
            raise InvalidRequestError.of("frame_index", f"expected more than {self._latest}, got {request.index}")
        self._latest = request.index
        self._check_count(request.prompts)
        async with AsyncExitStack() as room, self._slot() as slot:
            picture = await room.enter_async_context(self._pictures.open(request.image, for_session=True, passes=True))
            self._check_size(picture)
            held = _HeldFrame(self._looked_at, request.timestamp_s, picture, room)
            prompts = {**dict.fromkeys(self._objects), **await self._fitted(request.prompts, picture)}
            found = await self._found(slot, held, prompts)
            self._size = (picture.height, picture.width)
            self._looked_at += 1
            self._held[request.index] = _HeldFrame(held.number, held.timestamp_s, picture, room.pop_all())
        while len(self._held) > self._request.held_frames:
            _, oldest = self._held.popitem(last=False)
            await oldest.room.aclose()
        self._memory.answered()
        return TrackedFrame(request.index, request.timestamp_s, found, corrected=False, memory_bytes=self._memory.bytes)

    async def correct(self, request: CorrectionRequest) -> TrackedFrame:
        """Takes what is said of objects in a frame that is held.

        Raises:
            CutoutError: The prompts cannot be used; the session is as if they had not come.
        """
        held = self._held.get(request.index)
        if held is None:
            raise InvalidRequestError.of(
                "frame_index", f"expected a frame that is held, one of {list(self._held)}, got {request.index}"
            )
        self._check_count(request.prompts)
        async with self._slot() as slot:
            prompts = await self._fitted(request.prompts, held.picture)
            found = await self._found(slot, held, prompts)
        return TrackedFrame(request.index, held.timestamp_s, found, corrected=True, memory_bytes=self._memory.bytes)

    def remove(self, object_ids: Sequence[int]) -> list[int]:
        """Follows objects no more; answers which are followed still.

        Raises:
            InvalidRequestError: Some are not followed.
        """
        unknown = [index for index, number in enumerate(object_ids) if number not in self._objects]
        if unknown:
            raise InvalidRequestError(
                *(
                    FieldViolation(f"object_ids[{i}]", f"expected one of {sorted(self._objects)}, got {object_ids[i]}")
                    for i in unknown
                )
            )
        for number in object_ids:
            self._objects.pop(number, None)
        self._memory.keep(self._objects)
        return sorted(self._objects)

    def dropped(self, frames: int) -> None:
        """Counts frames that never came to be worked on."""
        self._memory.dropped(frames)

    async def close(self) -> None:
        """Gives all that is held back, though it is cancelled meanwhile."""
        async with AsyncExitStack() as rooms:
            for held in self._held.values():
                rooms.push_async_callback(held.room.aclose)
            self._held.clear()
            self._objects.clear()

    def _check_count(self, prompts: Mapping[int, FramePrompt]) -> None:
        count = len(self._objects.keys() | prompts.keys())
        if count > self._max_objects:
            raise InvalidRequestError.of("prompts", f"expected at most {self._max_objects} objects in all, got {count}")

    def _check_size(self, picture: Picture) -> None:
        if self._size not in {None, (picture.height, picture.width)}:
            height, width = self._size or (0, 0)
            raise InvalidRequestError.of(
                "image", f"expected {width} x {height} pixels as before, got {picture.width} x {picture.height}"
            )

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[Slot]:
        """A place on a device, the same as before if it is free; who is in already waits for one."""
        async with AsyncExitStack() as stack:
            slot = await until_there_is_room(
                lambda: stack.enter_async_context(self._pools.slot(self.tracker, prefer=self._device))
            )
            self._device = slot.pool.device
            yield slot

    async def _fitted(self, prompts: Mapping[int, FramePrompt], picture: Picture) -> Mapping[int, FramePrompt]:
        """See `_fitted`; masks take long to read."""
        if not prompts:
            return prompts
        with call_context.stage("masks"):
            return await asyncio.get_running_loop().run_in_executor(self._executor, _fitted, prompts, picture)

    async def _found(
        self, slot: Slot, held: _HeldFrame, prompts: Mapping[int, FramePrompt | None]
    ) -> tuple[TrackedObject, ...]:
        """Asks for objects in a frame and keeps what is remembered of them."""
        if not prompts:
            return ()
        numbers = sorted(prompts)
        embedding = await slot.embed(self.tracker, held.picture, until=held.room)
        oldest = max(0, max(held.number, self._looked_at - 1) - self._request.held_frames + 1)
        remembered = {number: each.memory for number, each in self._objects.items()}
        queries = [
            TrackQuery(embedding, held.number, remembered.get(number), prompts[number], oldest) for number in numbers
        ]
        answers = dict(zip(numbers, await slot.ask_all(TRACK, self.tracker, queries), strict=True))
        sightings = {**self._others(held), **answers} if self._request.non_overlapping else answers
        found = await self._masks.objects(slot, embedding, held.picture, sightings)
        objects = {**self._objects, **{number: self._kept(number, held, answers[number], oldest) for number in numbers}}
        self._memory.hold(objects, slot.pool.models)
        try:
            await slot.pool.make_room()
        except BaseException:
            self._memory.keep(self._objects)
            raise
        self._objects = objects
        return found

    def _others(self, held: _HeldFrame) -> dict[int, Sighting]:
        """How objects were found before in a frame."""
        return {n: each.sightings[held.number] for n, each in self._objects.items() if held.number in each.sightings}

    def _kept(self, number: int, held: _HeldFrame, answer: Tracked, oldest: int) -> Followed:
        """What is kept of an object from an answer on."""
        if not self._request.non_overlapping:
            return Followed(answer.memory)
        return self._objects.get(number, Followed(answer.memory)).seen(held.number, answer, oldest)


def _fitted(prompts: Mapping[int, FramePrompt], picture: Picture) -> dict[int, FramePrompt]:
    """The prompts with their boxes clipped to the frame.

    Raises:
        InvalidRequestError: A point lies outside, nothing of a box is left, or a mask is not of the frame.
    """
    nothing = ObjectPrompt()
    by_points = tuple(nothing if isinstance(prompt, Rle) else prompt for prompt in prompts.values())
    clipped = fitted(PromptsRequest(image=None, prompts=by_points), picture)
    violations = [
        FieldViolation(f"prompts[{index}].mask", why)
        for index, prompt in enumerate(prompts.values())
        if isinstance(prompt, Rle) and (why := _wrong(prompt, picture))
    ]
    if violations:
        raise InvalidRequestError(*violations)
    return {
        number: prompt if isinstance(prompt, Rle) else clipped[index]
        for index, (number, prompt) in enumerate(prompts.items())
    }


def _wrong(mask: Rle, picture: Picture) -> str:
    """What is wrong with a mask; empty if nothing is."""
    size = (picture.height, picture.width)
    if (mask.height, mask.width) != size:
        return f"expected the frame's size {list(size)}, got {[mask.height, mask.width]}"
    try:
        return "" if masks.area(mask) else "expected at least one pixel inside, got none"
    except ValueError as error:
        return f"expected COCO run lengths: {error}"
