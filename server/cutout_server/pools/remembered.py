"""What sessions remember of the objects that they follow: so many bytes in all, of one caller, and on a device.

What is remembered of an object grows for some frames, to an amount that is known from the first one on. Room for that
is kept from there, so that an object is refused where it begins, if at all, and no frame after.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from cutout_common.allowance import Allowance, Held

from cutout_server import call_context
from cutout_server.errors import OverloadedError
from cutout_server.models.embedding import ObjectMemory
from cutout_server.pools.models import NO_MEMORY, TRACKING_RETRY_S, LoadedModels


class Remembered:
    """All sessions together. Belongs to the event loop.

    Args:
        capacity_bytes: Bound on the room that is kept for what they remember.
        share_bytes: Bound on that of one caller's.
        trackers: Names of the models that follow.

    Attributes:
        sessions: Open ones.
        objects: Objects that they follow.
        bytes: What is remembered of these by now.
        frames: Frames answered since the start, by model.
        dropped: Frames dropped since the start.
    """

    def __init__(self, capacity_bytes: int, share_bytes: int, trackers: Iterable[str]) -> None:
        self.sessions = 0
        self.objects = 0
        self.bytes = 0
        self.frames = dict.fromkeys(trackers, 0)
        self.dropped = 0
        self._room = Allowance(capacity_bytes, share_bytes)

    @property
    def reserved_bytes(self) -> int:
        """The room that is kept for it."""
        return self._room.in_use

    @property
    def capacity_bytes(self) -> int:
        """The bound on that."""
        return self._room.total

    @contextmanager
    def session(self, tracker: str, held_frames: int) -> Iterator["SessionMemory"]:
        """What the current call's session remembers, for as long as the block lasts.

        Args:
            tracker: Name of the model that follows its objects.
            held_frames: So many of its frames can be corrected.
        """
        self.sessions += 1
        with self._room.hold(call_context.party()) as room:
            session = SessionMemory(self, room, tracker, held_frames)
            try:
                yield session
            finally:
                session.keep({})
                self.sessions -= 1


class SessionMemory:
    """The part of one session.

    Attributes:
        bytes: What it remembers by now.
    """

    def __init__(self, of_all: Remembered, room: Held, tracker: str, held_frames: int) -> None:
        self.bytes = 0
        self._all = of_all
        self._room = room
        self._tracker = tracker
        self._held_frames = held_frames
        self._objects: frozenset[int] = frozenset()
        self._device: LoadedModels | None = None

    def hold(self, objects: Mapping[int, ObjectMemory], device: LoadedModels) -> None:
        """Says what it remembers from now on, and on which device, beside the model that follows the objects.

        Raises:
            OverloadedError: There is no room for what it comes to remember; it is as before.
        """
        before = self._room.amount
        nbytes = sum(memory.nbytes for memory in objects.values())
        reserved = max(nbytes, sum(memory.grown(self._held_frames) for memory in objects.values()))
        others = device.remembered_bytes - (before if device is self._device else 0)
        fits = device.fits(device.sizes().get(self._tracker, 0) + others + reserved)
        if reserved > before and not (fits and self._room.grow_at_once(reserved)):
            raise OverloadedError(
                f"{self._what(objects)} would take {reserved} bytes, and sessions have as many as they may; "
                "remove objects, or come back when others have ended",
                reason=NO_MEMORY,
                retry_after_s=TRACKING_RETRY_S,
            )
        if self._device is not None:
            self._device.remembered_bytes -= before
        device.remembered_bytes += reserved
        self._device = device
        self._room.shrink(reserved)
        self._all.objects += len(objects) - len(self._objects)
        self._all.bytes += nbytes - self.bytes
        self._objects, self.bytes = frozenset(objects), nbytes

    def keep(self, objects: Mapping[int, ObjectMemory]) -> None:
        """Says what it still remembers: nothing that it did not before."""
        if self._device is not None:
            self.hold(objects, self._device)

    def _what(self, objects: Mapping[int, ObjectMemory]) -> str:
        """What there is no room for."""
        begun = ", ".join(map(str, sorted(objects.keys() - self._objects)))
        followed = f"what is remembered of {len(objects.keys() & self._objects)} objects"
        return f"{followed}, with that of {begun}," if begun else followed

    def answered(self) -> None:
        """Counts a frame."""
        self._all.frames[self._tracker] += 1

    def dropped(self, frames: int) -> None:
        """Counts frames that were dropped."""
        self._all.dropped += frames
