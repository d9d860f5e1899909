"""What a tracker answers of the objects in a frame, as it leaves: measured, with masks in their formats."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.errors import AnswerTooLargeError
from cutout_server.imaging import masks
from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import EXCLUSIVE_MASKS, MASKS
from cutout_server.models.queries import MaskQuery, Sighting
from cutout_server.pipelines.finishing import PIXELS_AT_ONCE, clean_and_measure
from cutout_server.pools.placement import Slot
from cutout_server.types import Box, EncodedMask, MaskPatch, Picture, Rle, TrackedObject, TrackingRequest

_PRESENT = 0.5  # Presence from which an object is in the frame, as of the models' logits above 0.


class TrackedMasks:
    """Makes the masks of a session's objects.

    Args:
        request: What is made of them.
        tracker: The model that follows the objects.
        executor: Where masks are measured and written.
        max_message_bytes: Bound on the masks of a frame.
    """

    def __init__(
        self, request: TrackingRequest, tracker: ModelSpec, executor: Executor, max_message_bytes: int
    ) -> None:
        self._request = request
        self._tracker = tracker
        self._executor = executor
        self._max_message_bytes = max_message_bytes

    async def objects(
        self, slot: Slot, embedding: Embedding, picture: Picture, sightings: Mapping[int, Sighting]
    ) -> tuple[TrackedObject, ...]:
        """The objects with their masks at the frame's size: few of them are in memory before they are run lengths.

        Args:
            slot: Where the model is asked.
            embedding: The frame's.
            picture: The frame.
            sightings: How each object was found there.

        Raises:
            AnswerTooLargeError: The masks are larger than a message may be.
        """
        threshold = self._request.options.mask_threshold
        numbers = sorted(number for number, each in sightings.items() if each.presence > _PRESENT)
        queries = {number: MaskQuery(embedding, sightings[number].logits, threshold) for number in numbers}
        measured: dict[int, _Measured] = {}
        at_once = max(1, PIXELS_AT_ONCE // (picture.height * picture.width))
        if self._request.non_overlapping and numbers:
            rles = await slot.ask(EXCLUSIVE_MASKS, self._tracker, [queries[number] for number in numbers])
            measured.update(zip(numbers, await self._measured(rles, measured), strict=True))
            numbers = []
        for start in range(0, len(numbers), at_once):
            chunk = numbers[start : start + at_once]
            patches = await slot.ask_all(MASKS, self._tracker, [queries[number] for number in chunk])
            measured.update(zip(chunk, await self._measured(patches, measured), strict=True))
        return tuple(
            measured.get(number, _Measured()).tracked(number, sighting)
            for number, sighting in sorted(sightings.items())
        )

    async def _measured(
        self, patches: Sequence[MaskPatch | Rle], before: Mapping[int, "_Measured"]
    ) -> list["_Measured"]:
        """Those masks beside the ones before, while there is room for all of them in a message."""
        options = self._request.options
        room = self._max_message_bytes - sum(each.nbytes for each in before.values())

        def measure() -> list[_Measured]:
            made: list[_Measured] = []
            left = room
            for patch in patches:
                rle, box, area = clean_and_measure(patch, options)
                encoded = tuple(masks.encode(rle, form, options) for form in options.mask_formats) if box else ()
                made.append(_Measured(rle if box else None, box, area, encoded))
                left -= made[-1].nbytes
                if left < 0:
                    raise AnswerTooLargeError(self._max_message_bytes, "ask for fewer objects, or for RLE alone")
            return made

        with call_context.stage("masks"):
            return await asyncio.get_running_loop().run_in_executor(self._executor, measure)


@dataclass(frozen=True)
class _Measured:
    """A mask as it leaves; without a box when it is empty."""

    mask: Rle | None = None
    box: Box | None = None
    area: int = 0
    encoded: tuple[EncodedMask, ...] = ()

    @property
    def nbytes(self) -> int:
        """About what it takes on the wire, or less."""
        return sum(map(masks.nbytes, self.encoded))

    def tracked(self, number: int, sighting: Sighting) -> TrackedObject:
        """It, with what the tracker says."""
        present = self.box is not None
        return TrackedObject(
            number, present, sighting.presence, sighting.predicted_iou, self.mask, self.box, self.area, self.encoded
        )
