"""What words find in a frame in which objects are followed: what is new begins as objects."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from cutout_common import masks as codec

from cutout_server import call_context
from cutout_server.errors import OverloadedError, QuotaError
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.pipelines.track import Tracking
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

T = TypeVar("T")
Find = tuple[str, float, Rle]  # Phrase, score and mask.

_SAME_IOU = 0.5  # Of two masks of one object.
_QUEUE_FULL = OverloadedError.default_reason


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
        self._ids = itertools.count(first_id)
        self._used: set[int] = set()

    def used(self, ids: Iterable[int]) -> None:
        """These are the caller's, and are not given."""
        self._used.update(ids)

    async def find(self, image: ImageSource, phrases: TextRequest) -> list[Find]:
        """What phrases find in a picture, the highest score first.

        Raises:
            CutoutError: They cannot be looked for.
        """

        async def ask() -> list[Find]:
            async with self._segmentation.open(phrases.with_image(image)) as run:
                return [(each.label, each.detection_score or 0.0, each.mask) async for each in run.objects()]

        return sorted(await patiently(ask), key=lambda each: -each[1])

    async def begin(
        self, tracking: Tracking, finds: Sequence[Find], frame: TrackedFrame, number: int = 0
    ) -> tuple[TrackedFrame, FoundObjects, dict[int, FramePrompt]]:
        """Has what was found begin, unless it is followed already.

        Args:
            tracking: What follows.
            finds: What was found in its latest frame.
            frame: The answer to that.
            number: By which the frame goes in what is told of it.

        Returns:
            The frame with what is new in it, what is to be told of that, and the masks by which it begins.
        """
        followed = [each.mask for each in frame.objects if each.mask is not None]
        objects, prompts, known, too_many = [], dict[int, FramePrompt](), 0, 0
        for label, score, mask in finds:
            if any(_same(mask, other) for other in followed):
                known += 1
            elif len(frame.objects) + len(prompts) == self._max_objects:
                too_many += 1
            else:
                followed.append(mask)
                objects.append(FoundObject(self._free_id(), label, score))
                prompts[objects[-1].object_id] = mask
        if prompts:
            added = await tracking.correct(CorrectionRequest(frame.index, prompts))
            together = sorted((*frame.objects, *added.objects), key=lambda each: each.object_id)
            frame = replace(frame, objects=tuple(together), memory_bytes=added.memory_bytes)
        return frame, FoundObjects(number, tuple(objects), known, too_many), prompts

    def _free_id(self) -> int:
        return next(number for number in self._ids if number not in self._used)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks until there is room: who follows objects already can wait."""
    while True:
        try:
            return await ask()
        except (OverloadedError, QuotaError) as full:
            if full.retry_after_s is None or full.reason not in {_QUEUE_FULL, QuotaError.default_reason}:
                raise
            with call_context.stage("queue"):
                await asyncio.sleep(full.retry_after_s)


def _same(mask: Rle, other: Rle) -> bool:
    return bool(codec.rle_iou(mask.height, mask.width, [mask.counts], [other.counts])[0, 0] >= _SAME_IOU)
