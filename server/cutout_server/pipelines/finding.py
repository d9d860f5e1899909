"""What words find in a frame in which objects are followed: what is new begins as objects."""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import structlog
from cutout_common import masks as codec

from cutout_server import call_context
from cutout_server.errors import CutoutError, InternalError
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.pipelines.track import Tracking
from cutout_server.pools.models import NO_MEMORY
from cutout_server.pools.retrying import until_there_is_room
from cutout_server.types import (
    CorrectionRequest,
    FoundObject,
    FoundObjects,
    FramePrompt,
    ImageSource,
    Rle,
    TextRequest,
    TrackedFrame,
)

log = structlog.get_logger()

Find = tuple[str, float, Rle]  # Phrase, score and mask.

_SAME_IOU = 0.5  # Of two masks of one object.
_MOST_USED = 10_000  # Ids that are remembered one by one: about a megabyte.
_IDS = 2**32


@dataclass(frozen=True)
class Finds:
    """What phrases found in a picture, the highest score first.

    Attributes:
        refusal: Why they were not looked for.
    """

    found: Sequence[Find] = ()
    refusal: CutoutError | None = None


class Finder:
    """Looks for words and gives ids to what they find.

    Args:
        segmentation: What finds.
        max_objects: So many may be followed.
        first_id: The least id that is given.
    """

    def __init__(self, segmentation: SegmentPipeline, *, max_objects: int, first_id: int = 1) -> None:
        self._segmentation = segmentation
        self._max_objects = max_objects
        self._next_id = first_id
        self._used: set[int] = set()  # From _next_id on.

    def used(self, ids: Iterable[int]) -> None:
        """These are the caller's, and are not given.

        Of very many, the lower half is remembered by its highest one, below which none is given any more.
        """
        self._used.update(number for number in ids if number >= self._next_id)
        if len(self._used) > _MOST_USED:
            self._next_id = sorted(self._used)[len(self._used) // 2]
            self._forget_below()

    async def find(self, image: ImageSource, phrases: TextRequest, *, may_fail: bool) -> Finds:
        """What phrases find in a picture.

        Args:
            image: The picture.
            phrases: What to look for.
            may_fail: Whether what prevents that is an answer, too.

        Raises:
            CutoutError: They cannot be looked for, though they must be.
        """

        async def ask() -> list[Find]:
            async with self._segmentation.open(phrases.with_image(image)) as run:
                return [(each.label, each.detection_score or 0.0, each.mask) async for each in run.objects()]

        try:
            return Finds(sorted(await until_there_is_room(ask), key=lambda each: -each[1]))
        except Exception as error:
            if not may_fail:
                raise
            return Finds(refusal=_refusal(error))

    async def begin(
        self, tracking: Tracking, finds: Finds, frame: TrackedFrame, number: int = 0
    ) -> tuple[TrackedFrame, FoundObjects, dict[int, FramePrompt]]:
        """Has what was found begin, unless it is followed already.

        Args:
            tracking: What follows.
            finds: What was found in its latest frame.
            frame: The answer to that, which stands whatever becomes of what was found.
            number: By which the frame goes in what is told of it.

        Returns:
            The frame with what is new in it, what is to be told of that, and the masks by which it begins.
        """
        followed = [each.mask for each in frame.objects if each.mask is not None]
        ids_left = _IDS - self._next_id - len(self._used) - len(frame.objects)
        room = max(0, min(self._max_objects - len(frame.objects), ids_left))
        with call_context.stage("masks"):  # A thousand finds beside dozens of objects take seconds.
            fresh, known, too_many = await asyncio.to_thread(_fresh, finds.found, followed, room)
        ids = self._free_ids(len(fresh), {each.object_id for each in frame.objects})
        masks: dict[int, FramePrompt] = {number: mask for number, (_, _, mask) in zip(ids, fresh, strict=True)}
        frame, refusal = await _begun(tracking, frame, masks)
        begun = {each.object_id for each in frame.objects}
        prompts = {number: mask for number, mask in masks.items() if number in begun}
        self._next_id = max(prompts, default=self._next_id - 1) + 1
        self._forget_below()
        objects = tuple(
            FoundObject(number, label, score)
            for number, (label, score, _) in zip(ids, fresh, strict=True)
            if number in begun
        )
        left = len(fresh) - len(objects)
        return frame, FoundObjects(number, objects, known, too_many, left, finds.refusal or refusal), prompts

    def _forget_below(self) -> None:
        self._used = {number for number in self._used if number >= self._next_id}

    def _free_ids(self, count: int, followed: AbstractSet[int]) -> list[int]:
        """Of those that are followed, some may have begun in a frame whose deadline passed before it was answered."""
        free = (number for number in itertools.count(self._next_id) if number not in self._used | followed)
        return list(itertools.islice(free, count))


async def _begun(
    tracking: Tracking, frame: TrackedFrame, masks: Mapping[int, FramePrompt]
) -> tuple[TrackedFrame, CutoutError | None]:
    """The frame with those objects that could begin there, the first ones, and why the others could not.

    Whether there is memory for an object, and will be for what it comes to take, shows when it begins, and for several
    when all of them do: if there is not, half as many are tried.
    """
    waiting, at_once = dict(masks), len(masks)
    refusal: CutoutError | None = None
    while waiting and at_once:
        some = dict(itertools.islice(waiting.items(), at_once))
        try:
            added = await tracking.correct(CorrectionRequest(frame.index, some))
        except Exception as error:  # noqa: BLE001 - the frame is answered without them, and says why
            refusal = _refusal(error)
            at_once = at_once // 2 if refusal.reason == NO_MEMORY else 0
        else:
            together = {each.object_id: each for each in (*frame.objects, *added.objects)}
            objects = tuple(together[number] for number in sorted(together))
            frame = replace(frame, objects=objects, memory_bytes=added.memory_bytes)
            waiting = {number: mask for number, mask in waiting.items() if number not in some}
    return frame, refusal if waiting else None


def _refusal(error: Exception) -> CutoutError:
    """What the caller is told of what prevented something, where that does not refuse the frame."""
    call = call_context.current()
    if not isinstance(error, CutoutError):
        log.error("unexpected error", request_id=call.request_id, exc_info=error)
        return InternalError.of(call.request_id)
    call.stages.note(error)
    return error


def _fresh(found: Sequence[Find], followed: Sequence[Rle], room: int) -> tuple[list[Find], int, int]:
    """What is not followed yet, as much as there is room for; how much is followed, and how much more was found."""
    fresh: list[Find] = []
    known = too_many = 0
    for find in found:
        if any(_same(find[-1], other) for other in (*followed, *(each[-1] for each in fresh))):
            known += 1
        elif len(fresh) == room:
            too_many += 1
        else:
            fresh.append(find)
    return fresh, known, too_many


def _same(mask: Rle, other: Rle) -> bool:
    return bool(codec.rle_iou(mask.height, mask.width, [mask.counts], [other.counts])[0, 0] >= _SAME_IOU)
