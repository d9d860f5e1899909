"""What sessions remember of the objects that they follow: so many bytes in all, of one caller, and on a device."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cutout_common.allowance import Allowance, Held

from cutout_server import call_context
from cutout_server.errors import OverloadedError
from cutout_server.pools.models import NO_MEMORY, TRACKING_RETRY_S, LoadedModels


class Remembered:
    """All sessions together. Belongs to the event loop.

    Args:
        capacity_bytes: Bound on what they remember.
        share_bytes: Bound on what one caller's do.
        trackers: Names of the models that follow.

    Attributes:
        sessions: Open ones.
        objects: Objects that they follow.
        frames: Frames answered since the start, by model.
        dropped: Frames dropped since the start.
    """

    def __init__(self, capacity_bytes: int, share_bytes: int, trackers: Iterable[str]) -> None:
        self.sessions = 0
        self.objects = 0
        self.frames = dict.fromkeys(trackers, 0)
        self.dropped = 0
        self._room = Allowance(capacity_bytes, share_bytes)

    @property
    def bytes(self) -> int:
        """What is remembered."""
        return self._room.in_use

    @property
    def capacity_bytes(self) -> int:
        """The bound on it."""
        return self._room.total

    @contextmanager
    def session(self, tracker: str) -> Iterator["SessionMemory"]:
        """What the current call's session by that model remembers, for as long as the block lasts."""
        self.sessions += 1
        with self._room.hold(call_context.party()) as held:
            session = SessionMemory(self, held, tracker)
            try:
                yield session
            finally:
                session.keep(0, 0)
                self.sessions -= 1


class SessionMemory:
    """The part of one session.

    Attributes:
        bytes: What it remembers.
    """

    def __init__(self, of_all: Remembered, held: Held, tracker: str) -> None:
        self._all = of_all
        self._held = held
        self._tracker = tracker
        self._objects = 0
        self._device: LoadedModels | None = None

    @property
    def bytes(self) -> int:
        """What it remembers."""
        return self._held.amount

    def hold(self, objects: int, nbytes: int, device: LoadedModels, grown_bytes: int = 0) -> None:
        """Says what it remembers from now on, and on which device, beside the model that follows the objects.

        Args:
            objects: How many objects.
            nbytes: What is remembered of them.
            device: Where that is.
            grown_bytes: There must be room for so much, too.

        Raises:
            OverloadedError: There is no room for so much; it is as before.
        """
        before = self.bytes
        others = device.remembered_bytes - (before if device is self._device else 0)
        most = max(nbytes, grown_bytes)
        fits = device.fits(device.sizes().get(self._tracker, 0) + others + most)
        if nbytes > before and not (fits and self._held.grow_at_once(most)):
            raise OverloadedError(
                f"what is remembered of {objects} objects takes {most} bytes, and sessions have as many as they may; "
                "remove objects, or come back when others have ended",
                reason=NO_MEMORY,
                retry_after_s=TRACKING_RETRY_S,
            )
        if self._device is not None:
            self._device.remembered_bytes -= before
        device.remembered_bytes += nbytes
        self._device = device
        self._held.shrink(nbytes)
        self._all.objects += objects - self._objects
        self._objects = objects

    def keep(self, objects: int, nbytes: int) -> None:
        """Says what it still remembers: no more than before."""
        if self._device is not None:
            self.hold(objects, nbytes, self._device)

    def answered(self) -> None:
        """Counts a frame."""
        self._all.frames[self._tracker] += 1

    def dropped(self, frames: int) -> None:
        """Counts frames that were dropped."""
        self._all.dropped += frames
